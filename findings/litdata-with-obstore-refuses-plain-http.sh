#!/usr/bin/env bash
# Versions:  litdata 0.2.76 with obstore 0.12.1, boto3 1.43.117, torch 2.14.1, Python 3.11, on a CPU.
# Guess:     a StreamingDataset whose storage_options name an endpoint_url reads from it, or does not,
#            whatever else is installed: MinIO, SeaweedFS and Ceph inside a cluster are often plain http.
# Behaviour: it depends on whether the optional package obstore can be imported. index.json always
#            comes through boto3, which takes http. Where obstore is there, chunks come through it,
#            made from boto3's client with the endpoint but without allow_http: the data set opens,
#            knows its length, and the first record fails with "builder error" (BadScheme). Nothing
#            in the message says http, and storage_options cannot allow it.
# Hurt:      who trains from an S3 server of the own cluster: the same code stops working when another
#            package brings obstore along. Remove obstore, or put TLS before the server.
# Source:    litdata/streaming/downloader.py (_build_obstore_s3_store, _OBSTORE_CLIENT_OPTIONS); seen
#            while benchmarking loaders against a server on loopback.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/read.py" <<'PYTHON'
import importlib.metadata
import os
import sys
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

warnings.simplefilter("ignore")
import litdata
import numpy as np
from litdata.streaming.writer import BinaryWriter

root = sys.argv[1]
writer = BinaryWriter(f"{root}/bucket", chunk_size=4)
for i in range(8):
    writer[i] = {"x": np.full(3, i)}
writer.done()
writer.merge()


class Bucket(SimpleHTTPRequestHandler):
    """GET and HEAD of objects are those of S3."""

    def __init__(self, *args):
        super().__init__(*args, directory=root)

    def end_headers(self):
        self.send_header("ETag", '"1"')
        super().end_headers()

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
threading.Thread(target=server.serve_forever, daemon=True).start()
keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
options = {"endpoint_url": f"http://127.0.0.1:{server.server_address[1]}", **keys}
data = litdata.StreamingDataset("s3://bucket", cache_dir=f"{root}/kept", storage_options=options)
try:
    importlib.metadata.version("obstore")
    print("with obstore:")
except importlib.metadata.PackageNotFoundError:
    print("without obstore:")
print(f"  opened, {len(data)} records")
try:
    print(f"  read {sum(int(record['x'][0]) for record in data)} in sum")
except Exception as error:
    known = [word for word in ("builder error", "BadScheme") if word in str(error)]
    print(f"  {type(error).__name__}: {', '.join(known)}")
os._exit(0)
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.14.1 litdata==0.2.76 boto3==1.43.117 obstore==0.12.1
mkdir "$work/one" "$work/two"
timeout 300 "$work/venv/bin/python" "$work/read.py" "$work/one" 2> /dev/null | tee "$work/seen"
"$work/venv/bin/pip" uninstall --quiet --yes obstore
timeout 300 "$work/venv/bin/python" "$work/read.py" "$work/two" 2> /dev/null | tee -a "$work/seen"

cat > "$work/expected" <<'TEXT'
with obstore:
  opened, 8 records
  RuntimeError: builder error, BadScheme
without obstore:
  opened, 8 records
  read 28 in sum
TEXT
diff "$work/expected" "$work/seen" && echo "as described"
