"""Makes an API key in an n8n that has just started, imports and activates the workflows of n8n/, prints JSON.

usage: n8n_setup.py URL      -> {"key": "...", "workflows": {"echo": "<id>", ...}}
"""
import http.cookiejar
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

BASE = sys.argv[1].rstrip("/")
WORKFLOWS = pathlib.Path(__file__).parent / "n8n"
SCOPES = [f"workflow:{right}" for right in ("create", "read", "list", "update", "delete", "activate", "deactivate")]
SCOPES += [f"execution:{right}" for right in ("read", "list", "delete", "stop", "retry")] + ["credential:create"]

web = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))


def call(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        BASE + path, method=method, data=data, headers={"Content-Type": "application/json", **headers}
    )
    with web.open(request, timeout=60) as answer:
        return json.load(answer)


def sign_in():
    # The owner is made a moment after the server says that it is ready.
    body = {"emailOrLdapLoginId": "owner@example.com", "password": "Owner-Passw0rd"}
    for _ in range(100):
        try:
            return call("POST", "/rest/login", body)
        except urllib.error.HTTPError as error:
            if error.code not in (401, 404):
                raise
        time.sleep(0.2)
    raise SystemExit("n8n_setup: the owner cannot sign in")


def is_routed(name):
    """Asked with the wrong method, a webhook that is routed says so; any other is not known at all."""
    try:
        urllib.request.urlopen(f"{BASE}/webhook/{name}", timeout=5)
    except urllib.error.HTTPError as error:
        return "not registered for GET" in error.read().decode()
    return False


sign_in()
wanted = {"label": f"test-{time.time_ns()}", "expiresAt": None, "scopes": SCOPES}
key = call("POST", "/rest/api-keys", wanted)["data"]["rawApiKey"]
api = {"X-N8N-API-KEY": key}
(credential,) = json.loads((WORKFLOWS / "credentials.cred").read_text())
named = {part: credential[part] for part in ("name", "type", "data")}
credential_id = call("POST", "/api/v1/credentials", named, **api)["id"]

ids = {}
for file in sorted(WORKFLOWS.glob("*.json")):
    workflow = json.loads(file.read_text())
    for node in workflow["nodes"]:
        for used in node.get("credentials", {}).values():
            used["id"] = credential_id
    body = {part: workflow[part] for part in ("name", "nodes", "connections")}
    ids[file.stem] = call("POST", "/api/v1/workflows", body | {"settings": {"executionOrder": "v1"}}, **api)["id"]
    call("POST", f"/api/v1/workflows/{ids[file.stem]}/activate", {}, **api)
# Activating is answered before the webhook is routed.
for name in ids:
    for _ in range(100):
        if is_routed(name):
            break
        time.sleep(0.1)
    else:
        raise SystemExit(f"n8n_setup: the webhook {name} was not routed")
print(json.dumps({"key": key, "workflows": ids}))
