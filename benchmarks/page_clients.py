"""Many clients of the page who cancel at random: is a job lost or mixed up, does memory grow?

python benchmarks/page_clients.py --captioner runs/demo --clients 50 --seconds 180
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

from gradio_client import Client, handle_file

from invcap.data.shapes import Scene, draw

ADDRESS = "http://127.0.0.1:{port}"
LONGEST = 600  # seconds that a job may wait for its result
SETTLE = 5


def trial(address: str, clients: int, seconds: float, seed: int = 0) -> Counter[str]:
    """Runs clients for some time, and counts the outcomes of their jobs.

    Args:
        address: of a page with a captioner.

    Returns:
        The numbers of jobs that were "done", "cancelled", "mixed up" (the result of another job)
        and "lost" (neither a result nor cancelled by the client).
    """
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        draw(Scene("large", "red", "square", "in the center", "black"), 64).save(picture)
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(clients) as pool:
            jobs = [
                pool.submit(work, address, picture, number, until, seed)
                for number in range(clients)
            ]
            return sum((job.result() for job in jobs), Counter())


def work(address: str, picture: Path, number: int, until: float, seed: int) -> Counter[str]:
    """One client: submits jobs one after another and cancels some of them."""
    chance = random.Random(seed * 1000 + number)
    client = Client(address, verbose=False, httpx_kwargs={"timeout": LONGEST})
    counts: Counter[str] = Counter()
    made = 0
    while time.monotonic() < until:
        made += 1
        mark = f"client {number} job {made}."
        counts[one_job(client, picture, mark, chance)] += 1
    client.close()
    return counts


def one_job(client: Client, picture: Path, mark: str, chance: random.Random) -> str:
    """Submits a job with the text `mark`, perhaps cancels it, and returns the outcome."""
    kind = chance.choice(("draw", "score", "invert"))
    file = handle_file(str(picture))
    if kind == "draw":
        job = client.submit(mark, 1, 0, 0, 1, api_name="/draw")
    elif kind == "score":
        job = client.submit(file, f"{mark}\na room", 16, 1, api_name="/score")
    else:
        job = client.submit(file, "A sentence", mark, 4, False, 1, api_name="/invert")
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 3))
        if job.cancel():
            return "cancelled"
    try:
        result = job.result(timeout=LONGEST)
    except CancelledError:
        return "cancelled"
    except Exception as error:
        print(f"{mark}: {kind}: {error!r}", file=sys.stderr)
        return "lost"
    said = Path(result[3][1]).read_text() if kind == "score" else str(result)
    return "done" if mark in said else "mixed up"


def memory(process: int) -> float:
    """Resident memory of a process, MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def start(port: int, *options: str) -> tuple[subprocess.Popen[bytes], float]:
    """Serves the page; the process, and the seconds until it answered."""
    command = [sys.executable, "-m", "invcap.cli", "app"]
    begun = time.monotonic()
    process = subprocess.Popen([*command, *options, "--port", str(port)])
    while True:
        try:
            Client(ADDRESS.format(port=port), verbose=False).close()
            return process, time.monotonic() - begun
        except Exception:
            if process.poll() is not None:
                raise
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captioner", required=True, help="folder that `invcap train` wrote")
    parser.add_argument("--model", help="folder of a Stable Diffusion; default tiny-sd")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--port", type=int, default=7890)
    options = parser.parse_args()
    model = [] if options.model is None else ["--model", options.model]
    process, seconds = start(options.port, "--captioner", options.captioner, *model)
    address = ADDRESS.format(port=options.port)
    try:
        trial(address, options.clients, 20)  # what is loaded or compiled once is there after this
        time.sleep(SETTLE)
        before = memory(process.pid)
        counts = trial(address, options.clients, options.seconds, seed=1)
        time.sleep(SETTLE)
        after = memory(process.pid)
    finally:
        process.terminate()
        process.wait()
    print(f"answered after {seconds:.1f} s; {dict(counts)}")
    print(f"memory {before:.0f} MiB before, {after:.0f} after: {after / before:.3f} times")


if __name__ == "__main__":
    main()
