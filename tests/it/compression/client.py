import asyncio
import json
import sys

from websockets.asyncio.client import connect

url, token, account = sys.argv[1:]


async def session(since, count):
    async with connect(url) as socket:
        print(json.dumps({"extensions": [extension.name for extension in socket.protocol.extensions]}))
        data = {"account_id": account, "bindings": ["call.*.*"], **since}
        await socket.send(json.dumps({"action": "subscribe", "auth_token": token, "data": data}))
        reply = json.loads(await socket.recv())
        assert reply["status"] == "success", reply
        for _ in range(count):
            event = json.loads(await socket.recv())
            print(json.dumps(event["args"]))
        return event["cursor"]


async def main():
    cursor = await session({}, 3)
    await asyncio.to_thread(sys.stdin.readline)
    await session({"since": cursor}, 3)


asyncio.run(main())
