# Keeps one PostgreSQL cluster for a test process: `sh -c THIS keeper BIN DIR`, run as a user that is not root.
#
# Obeys the lines it reads, init, start PORT and stop, and answers each with its exit code. When its standard input
# closes, which it does however the test process ends, the cluster and its folder go. So nothing may end the keeper
# before that: it runs in a process group of its own and hears no signal that a terminal sends.
bin=$1 dir=$2
trap '' HUP INT TERM

init() {
    "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust --locale=C --encoding=UTF8 --no-sync &&
        cat "$dir/settings" >>"$dir/data/postgresql.conf"
}
start() {
    "$bin/pg_ctl" start --wait --silent --pgdata="$dir/data" --log="$dir/log" --options="-p $1"
}
stop() {
    "$bin/pg_ctl" stop --wait --silent --pgdata="$dir/data" --mode=immediate
}

while read -r command port; do
    case $command in
    init) init ;;
    start) start "$port" ;;
    stop) stop ;;
    esac </dev/null >>"$dir/log" 2>&1
    echo $?
done
[ -e "$dir/data/postmaster.pid" ] && stop >/dev/null 2>&1
rm -rf "$dir"
