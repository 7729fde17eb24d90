#!/bin/sh
# Waits for a file that never comes, as modules sometimes do.
#
# Submit it with --run-timeout: the shell and the sleep it started are both ended then.
echo "waiting for ${1:-/nonexistent/input.csv}"
while [ ! -e "${1:-/nonexistent/input.csv}" ]; do
    sleep 1
done
