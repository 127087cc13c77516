"""Start both servers on a folder, print their addresses and process ids in one line, and wait until killed."""

import json
import sys
from pathlib import Path

from devstack.postgres import Postgres
from devstack.valkey import Valkey

folder = Path(sys.argv[1])
with Postgres(folder) as postgres, Valkey(folder) as valkey:
    report = {
        "postgres": postgres.url,
        "valkey": valkey.url,
        "account": postgres.account.name,
        "data": str(postgres.data),
        "pids": [postgres.pid, valkey.pid],
    }
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
