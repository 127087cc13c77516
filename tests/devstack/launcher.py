"""A launcher to be killed: starts both servers on the folder it is given, tells of them in a line, and waits."""

import json
import sys
from pathlib import Path

from devstack.postgres import Postgres
from devstack.valkey import Valkey

folder = Path(sys.argv[1])
with Postgres(folder) as postgres, Valkey(folder) as valkey:
    told = {
        "postgres": postgres.url,
        "valkey": valkey.url,
        "account": postgres.account.name,
        "data": str(postgres.data),
        "pids": [postgres.pid, valkey.pid],
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
