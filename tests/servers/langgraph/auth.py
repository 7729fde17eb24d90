"""The hook by which the LangGraph server asks for a key: the header x-api-key must be what the test says."""
import os

from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def authenticate(headers: dict) -> str:
    # The names of headers come as bytes in some versions and as text in others.
    given = headers.get(b"x-api-key") or headers.get("x-api-key") or b""
    given = given.decode() if isinstance(given, bytes) else given
    if given != os.environ["FLOWGATE_TEST_KEY"]:
        raise Auth.exceptions.HTTPException(status_code=401, detail="invalid x-api-key")
    return "tester"
