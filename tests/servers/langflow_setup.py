"""Makes a key and the flows of a folder in a Langflow that has just started, and prints them as JSON.

usage: langflow_setup.py URL FOLDER      -> {"key": "...", "flows": {"echo": "<id>", "step": "<id>"}}
"""
import json
import pathlib
import sys
import urllib.request

BASE = sys.argv[1].rstrip("/")
FLOWS = pathlib.Path(sys.argv[2])


def call(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        BASE + path, method=method, data=data, headers={"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


token = call("GET", "/api/v1/auto_login")["access_token"]
key = call("POST", "/api/v1/api_key/", {"name": "test"}, Authorization=f"Bearer {token}")["api_key"]
flows = {
    file.stem: call("POST", "/api/v1/flows/", json.loads(file.read_text()), **{"x-api-key": key})["id"]
    for file in sorted(FLOWS.glob("*.json"))
}
print(json.dumps({"key": key, "flows": flows}))
