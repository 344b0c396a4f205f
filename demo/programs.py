"""What the demo runs in the sandbox."""

from __future__ import annotations

ANALYSIS = """
import pandas as pd

sales = pd.read_csv("sales.csv", parse_dates=["date"])
missing = int(sales.units.isna().sum())
sales = sales.dropna(subset=["units"])
sales["revenue"] = sales.units * sales.price
by_region = sales.groupby("region").revenue.sum().round(2).sort_values(ascending=False)
print(by_region.to_string())
{"rows": len(sales), "missing": missing, "by_region": by_region.to_dict()}
"""

# Nothing is read again: `sales` is the variable of the call before.
PLOT = """
import matplotlib.pyplot as plt

monthly = sales.pivot_table(index=sales.date.dt.month, columns="region", values="revenue", aggfunc="sum")
axes = (monthly / 1000).plot(figsize=(8, 4.5), marker="o", title="Revenue by month and region")
axes.set(xlabel="month", ylabel="revenue in thousands", xticks=range(1, 13))
axes.grid(alpha=0.3)
plt.show()
len(sales)
"""

ENDLESS = "while True:\n    pass"

FORK_BOMB = """
import os

def processes():
    return sum(name.isdigit() for name in os.listdir("/proc"))

told = False
while True:
    try:
        os.fork()
    except OSError as error:
        if not told:
            told = True
            print(processes(), error.strerror, flush=True)
"""

COUNT_PROCESSES = """
import os

sum(name.isdigit() for name in os.listdir("/proc"))
"""

MEMORY_BOMB = """
hoard = []
while True:
    hoard.append(b"x" * 16_000_000)
    print(len(hoard) * 16, flush=True)
"""

NETWORK = """
import socket

def attempt(what, action):
    try:
        action()
    except OSError as error:
        return what, error.strerror or str(error)
    return what, "REACHED"

attempts = dict([
    attempt("a name on the internet", lambda: socket.getaddrinfo("example.com", 443)),
    attempt("an address on the internet", lambda: socket.create_connection(("192.0.2.1", 443), 3)),
    attempt("this very server", lambda: socket.create_connection(("127.0.0.1", {port}), 3)),
])
interfaces = sorted(line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:])
print(interfaces)
attempts
"""

# What `process` starts; it tells its port, then serves the files of the session.
SITE = """
import http.server

with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as site:
    print(site.server_port, flush=True)
    site.serve_forever()
"""

VISIT = """
import urllib.request

len(urllib.request.urlopen("http://127.0.0.1:{port}/sales.csv", timeout=5).read())
"""

LOOK_AWAY = """
import urllib.request

try:
    urllib.request.urlopen("http://127.0.0.1:{port}/", timeout=5)
    found = "REACHED"
except OSError as error:
    found = str(error)
found
"""
