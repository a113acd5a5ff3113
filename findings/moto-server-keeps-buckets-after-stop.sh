#!/usr/bin/env bash
# moto 5.2.5: a ThreadedMotoServer that is stopped leaves its buckets to the next server of the same process.
#
# Each test starts a server, works, and stops it. Expected: a new server is empty, as a new `mock_aws()` is. Observed: the
# second server holds the bucket and the object of the first one. All servers of a process share one state, and neither
# stop() nor start() empties it. `mock_aws()` in the same process does empty it.
#
# Why it matters: a test that asks whether something was written passes on what an earlier test wrote, and the result
# depends on the order of the tests. A request POST /moto-api/reset empties the state.
#
# Output seen:
#   moto 5.2.5
#   first server: ['results'], then stopped
#   second server: ['results'], object b'of the first test'
#   second server after POST /moto-api/reset: []
#   mock_aws after mock_aws: []
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check boto3==1.43.117 flask==3.1.3 flask-cors==6.0.5 moto==5.2.5
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import importlib.metadata
import logging
import urllib.parse
import urllib.request

import boto3
from moto import mock_aws
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}


def started():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = urllib.parse.urlunsplit(("http", "{}:{}".format(*server.get_host_and_port()), "", "", ""))
    return server, address, boto3.client("s3", endpoint_url=address, **KEYS)


def buckets(client):
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


print("moto", importlib.metadata.version("moto"))
first, _, client = started()
client.create_bucket(Bucket="results")
client.put_object(Bucket="results", Key="numbers", Body=b"of the first test")
print(f"first server: {buckets(client)}, then stopped")
first.stop()

second, address, client = started()
kept = buckets(client)
content = client.get_object(Bucket="results", Key="numbers")["Body"].read() if kept else None
print(f"second server: {kept}, object {content}")
urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST")).read()
emptied = buckets(client)
print(f"second server after POST /moto-api/reset: {emptied}")
second.stop()

for again in range(2):
    with mock_aws():
        client = boto3.client("s3", **KEYS)
        mocked = buckets(client)
        client.create_bucket(Bucket="results")
print(f"mock_aws after mock_aws: {mocked}")
assert kept == ["results"] and content == b"of the first test", "a new server is empty now"
assert emptied == [] and mocked == []
EOF
