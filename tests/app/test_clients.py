import pytest
from gradio_client import Client, handle_file

from benchmarks.page_clients import trial


@pytest.mark.slow
def test_no_job_of_many_clients_is_lost_or_mixed_up(site):
    counts = trial(site.address, clients=4, seconds=6)
    assert counts["lost"] == counts["mixed up"] == 0
    assert counts["done"] and counts["cancelled"]


def test_a_client_reads_no_file_that_it_did_not_upload(site, picture):
    client = Client(site.address, verbose=False)
    elsewhere = {"path": str(site.captioner / "config.json"), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match=r"InvalidPathError|not allowed|error"):
        client.predict(elsewhere, 1, api_name="/caption")
    sentences, *_ = client.predict(handle_file(str(picture)), 1, api_name="/caption")
    assert sentences.count("<li>") == 1
    client.close()
