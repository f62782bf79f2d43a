"""Locust's FastHttpUser in a closed loop: ``locust_user.py URL USERS SECONDS BODY``.

Started by a Python that has locust, it runs without a web page or a master, in this process, so that what a
request costs can be told from what starting costs. Prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, constant, task
from locust.env import Environment

WARM_S = 1.0


def main() -> None:
    url, users, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    body = Path(sys.argv[4]).read_bytes()
    address = urlsplit(url)

    class Poster(FastHttpUser):
        host = f"{address.scheme}://{address.netloc}"
        wait_time = constant(0)

        @task
        def post(self) -> None:
            self.client.post(address.path, data=body, headers={"Content-Type": "application/json"})

    environment = Environment(user_classes=[Poster])
    runner = environment.create_local_runner()
    runner.start(users, spawn_rate=10_000)
    gevent.sleep(WARM_S)
    total = environment.stats.total
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()
    begin_requests, begin_failed = total.num_requests, total.num_failures
    gevent.sleep(seconds)
    answer = {
        "requests": total.num_requests - begin_requests,
        "failed": total.num_failures - begin_failed,
        "cpu_s": time.process_time() - begin_cpu_s,
        "begin_s": begin_s,
        "end_s": time.monotonic(),
    }
    print(json.dumps(answer), flush=True)
    runner.quit()


if __name__ == "__main__":
    main()
