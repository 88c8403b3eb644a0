"""API keys: refusals, names in logs and metrics, and secrets that never leave the worker."""

import re
import subprocess
import urllib.request

import pytest

from fake_engine import MODEL as FAKE, FakeEngine
from harness import MODEL, program, until
from load import chat_body, fetch_now
from test_clients import run_client


def new_key(name):
    """(the key, its line for the file), as droverctl makes them."""
    done = subprocess.run([program("droverctl"), "key", "new", name], check=True,
                          capture_output=True, text=True)
    return done.stderr.strip(), done.stdout


def write_keys(cluster, *lines):
    path = cluster.dir / "keys"
    path.touch(mode=0o600)
    path.write_text("".join(lines))
    return path


def chat(cluster, key=None, model=MODEL):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return fetch_now(cluster.api, "POST", "/v1/chat/completions",
                     chat_body("hi", 4, model=model), headers)


def metrics(cluster):
    with urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin")) as answer:
        return answer.read().decode()


def key_metric(cluster, what, name):
    match = re.search(rf'^drover_key_{what}_total{{key="{name}"}} (\d+)$', metrics(cluster), re.M)
    return int(match.group(1)) if match else None


def test_a_key_is_found_however_its_header_is_written(make_cluster):
    cluster = make_cluster()
    key, line = new_key("alice")
    cluster.settings["api"]["keys_file"] = str(write_keys(cluster, line))
    cluster.start()

    def status(**headers):
        return fetch_now(cluster.api, "GET", "/v1/models",
                         headers={name.replace("_", "-"): value for name, value in headers.items()}).status
    assert status() == 401
    good = [{"Authorization": f"{scheme}{key}"} for scheme in ("Bearer ", "bearer ", "BEARER ", "Bearer    ", "Bearer\t")]
    good += [{"authorization": f"  Bearer {key}  "}, {"X-API-Key": key}, {"Api-Key": f" {key} "}]
    # An empty key, and that of another service, do not hide a good one.
    good += [{"Authorization": other, "x_api_key": key} for other in ("Bearer ", "Bearer", "", "Bearer none", "Basic eDp5")]
    good += [{"x_api_key": "", "api_key": key}]
    for headers in good:
        assert status(**headers) in (200, 503), headers
    for headers in ({"Authorization": key}, {"Authorization": f"Bearer{key}"}, {"Authorization": f"Bearer {key}x"},
                    {"Authorization": f"Basic {key}"}, {"x_api_key": f"Bearer {key}"}, {"Authorization": "Bearer "}):
        assert status(**headers) == 401, headers


def test_a_key_opens_and_its_name_is_in_the_log_and_the_metrics(make_cluster):
    cluster = make_cluster()
    alice, line = new_key("alice")
    cluster.settings["api"]["keys_file"] = str(write_keys(cluster, line))
    cluster.start()
    cluster.start_node("a")
    assert chat(cluster).status == 401
    assert chat(cluster, "sk-drover-wrong").status == 401
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4),
                       {"Authorization": f"Bearer {alice}", "x-request-id": "with-key"})
    assert answer.status == 200, answer.body
    assert cluster.access_line("with-key")["key"] == "alice"
    for path in ("/health", "/livez", "/readyz"):
        assert fetch_now(cluster.api, "GET", path).status == 200
    assert key_metric(cluster, "requests", "alice") == 1
    assert key_metric(cluster, "output_tokens", "alice") == 4
    assert alice not in cluster.master.log() + cluster.access_log_path.read_text()
    assert alice not in metrics(cluster)


def test_a_reload_takes_keys_away_and_brings_new_ones(make_cluster):
    cluster = make_cluster()
    (alice, alices), (bob, bobs) = new_key("alice"), new_key("bob")
    path = write_keys(cluster, alices)
    cluster.settings["api"]["keys_file"] = str(path)
    cluster.start()
    cluster.start_node("a")
    assert (chat(cluster, alice).status, chat(cluster, bob).status) == (200, 401)
    write_keys(cluster, bobs)
    cluster.ctl("reload")
    # The old workers have closed their listeners by the time that `reload` answers, or are about to.
    until(lambda: (chat(cluster, alice).status, chat(cluster, bob).status) == (401, 200), 10)
    # A file that does not hold is refused, and nothing changes.
    path.chmod(0o644)
    refused = cluster.ctl("reload", check=False)
    assert refused.returncode == 1 and "can be read by everyone" in refused.stderr
    assert chat(cluster, bob).status == 200
    path.chmod(0o600)


def test_a_key_is_not_passed_on(make_cluster):
    engine = FakeEngine()
    cluster = make_cluster()
    alice, line = new_key("alice")
    cluster.settings["api"]["keys_file"] = str(write_keys(cluster, line))
    cluster.start()
    cluster.start_node("a", engine=engine.url)
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4, model=FAKE),
                       {"Authorization": f"Bearer {alice}", "x-api-key": alice})
    assert answer.status == 200, answer.body
    assert engine.requests
    for path, headers, body in engine.requests:
        assert alice not in repr((path, headers, body))
    engine.close()


@pytest.mark.parametrize("client", ["openai", "anthropic", "ollama"])
def test_each_official_client_says_that_its_key_is_wrong_and_works_with_a_good_one(make_cluster,
                                                                                  client):
    cluster = make_cluster()
    key, line = new_key("sdk")
    cluster.settings["api"]["keys_file"] = str(write_keys(cluster, line))
    cluster.start()
    cluster.start_node("a")
    run_client(client, cluster.url, "apiKey", key)
    assert key_metric(cluster, "requests", "sdk") >= 1
