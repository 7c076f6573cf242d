"""boto3, unmodified, driven over standard input: one JSON request a line, one JSON answer a line.

{"op": "RunTask", "args": {...}}            one call
{"pages": "list_tasks", "args": {...}}      a paginator's pages
{"wait": "tasks_running", "args": {...}}    a waiter
{"raw": "body", "target": "...", "sign": true, "secret": null}   any bytes, signed or not
"""

import json
import sys
import urllib.error
import urllib.request

import boto3
import botocore
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

session = boto3.Session()
ecs = session.client("ecs", config=Config(retries={"max_attempts": 1}))


def raw(request):
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": request["target"]}
    call = AWSRequest("POST", ecs.meta.endpoint_url, data=request["raw"], headers=headers)
    if request.get("sign", True):
        keys = session.get_credentials().get_frozen_credentials()
        if request.get("secret"):
            keys = keys._replace(secret_key=request["secret"])
        SigV4Auth(keys, "ecs", session.region_name).add_auth(call)
    sent = urllib.request.Request(call.url, request["raw"].encode(), dict(call.headers.items()), method="POST")
    try:
        with urllib.request.urlopen(sent, timeout=30) as answer:
            return {"status": answer.status, "body": answer.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}


def answer(request):
    args = request.get("args", {})
    if "raw" in request:
        return raw(request)
    if "wait" in request:
        return ecs.get_waiter(request["wait"]).wait(**args)
    if "pages" in request:
        return list(ecs.get_paginator(request["pages"]).paginate(**args))
    return getattr(ecs, botocore.xform_name(request["op"]))(**args)


for line in sys.stdin:
    try:
        out = {"ok": answer(json.loads(line))}
    except ClientError as error:
        out = {"code": error.response["Error"]["Code"], "message": error.response["Error"]["Message"]}
    except BotoCoreError as error:
        out = {"code": type(error).__name__, "message": str(error)}
    print(json.dumps(out, default=str), flush=True)
