"""Document cache: all users of the account, read once, and then only what has changed."""

import asyncio
import os
from typing import Any

from blackhole_events import BlackholeClient, BlackholeError

ACCOUNT = os.environ["ACCOUNT_ID"]


async def main() -> None:
    users: dict[str, Any] = {}
    async with BlackholeClient(os.environ["EVENTS_URL"], token=os.environ["TOKEN"]) as client:

        async def read(path: str = "") -> Any:
            endpoint = f"/v2/accounts/{ACCOUNT}/users{path}"
            while True:
                try:
                    answer = await client.request("api", {"verb": "get", "endpoint": endpoint})
                    return answer["data"] if answer["status"] == "success" else None
                except BlackholeError:
                    await asyncio.sleep(1)  # the connection is lost, or Crossbar does not answer

        async def read_all() -> None:
            everybody = await read("?paginate=false") or []
            users.clear()
            users.update({user["id"]: user for user in everybody})

        async with client.watch(ACCOUNT, "object.*.user") as changes:
            await changes.subscribed  # first, so that no change falls between reading and watching
            await read_all()
            print(sorted(users), flush=True)
            async for message in changes:
                if message["action"] == "gap":
                    await read_all()
                elif message["action"] == "event":
                    user_id = message["args"]["ID"]
                    user = None if message["name"] == "doc_deleted" else await read(f"/{user_id}")
                    if user is None:
                        users.pop(user_id, None)
                    else:
                        users[user_id] = user
                print(sorted(users), flush=True)


asyncio.run(main())
