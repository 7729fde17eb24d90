# Keeps one server for a test process: `sh -c THIS keeper STATE COMMAND...`, in a process group of its own.
#
# Runs the command, and ends it and removes the folder STATE when its standard input closes, which it does however the
# test process ends. Its standard output closes when the server has ended, be it by itself.
state=$1
shift
# The server holds the end of the pipe under another number, so that it lasts as long as the server does.
"$@" </dev/null 3>&1 >"$state/log" 2>&1 &
server=$!
exec >&- 2>&-
trap '' HUP INT TERM
while read -r _; do :; done
kill -KILL "$server"
wait "$server"
rm -rf "$state"
# What the server started, and this.
kill -KILL 0
