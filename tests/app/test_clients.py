import json
import urllib.error
import urllib.request

import pytest
from gradio_client import Client, handle_file

from benchmarks.page_clients import trial

pytestmark = pytest.mark.slow


def test_no_job_of_many_clients_is_lost_or_mixed_up(site):
    counts = trial(site.address, clients=4, seconds=6)
    assert counts["lost"] == counts["mixed up"] == 0
    assert counts["done"] and counts["cancelled"]


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_a_program_reads_no_file_that_it_did_not_upload(site, picture, meta):
    url = f"{site.address}/gradio_api/call/caption"
    body = json.dumps({"data": [{"path": str(picture)} | meta, 1]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert "not uploaded" in refused.value.read().decode()


def test_a_program_captions_what_it_uploads(site, picture):
    client = Client(site.address, verbose=False)
    _, sentences, *_ = client.predict(handle_file(str(picture)), 1, api_name="/caption")
    assert sentences.count("<li>") == 1
    client.close()
