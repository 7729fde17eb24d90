# meter.py MILLISECONDS LIMIT works for a while, and keeps a record of how many did so at the same time, whichever
# replica started them. The first ones wait until LIMIT of them are there, so that the record shows that so many can be.
#
# Each holds the lock of a file of its own until it ends; the system lets go of it, however that comes about. Whoever
# enters holds the lock of the record while it counts, so that nobody else enters: all that it finds were there at the
# moment it came.
import fcntl
import os
import sys
import time


def locked(path):
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_held(path):
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(file)


record = locked("record")
own = locked(f"present/{os.getpid()}")
present = sum(is_held(f"present/{name}") for name in os.listdir("present"))
os.write(record, b"%d\n" % present)
os.close(record)
until = time.monotonic() + 20
while sys.argv[2] not in open("record").read().split() and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(int(sys.argv[1]) / 1000)
