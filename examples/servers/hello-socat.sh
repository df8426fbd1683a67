#!/bin/sh
# A small HTTP server of shell and socat that can be replaced under load.
#
#     segue run --listen :8080 --ready fd:4 -- ./hello-socat.sh
#
# A few slots serve one connection at a time each, with one answer and "Connection: close". Who waits
# for a slot waits in the listening socket's queue, which no generation owns, and is lost by none.
#
# socat before 1.8 cannot accept on a socket that it did not bind; perl does that for it. It looks for a
# second, so that a slot that is to stop ends between two connections and never within one. With 1.8
# it is: socat ACCEPT-FD:3,accept-timeout=1 EXEC:"$0 answer"

set -u

slots=4

answer()
{
    length=0
    read -r request || exit 0
    while read -r line && [ "$line" != "$(printf '\r')" ]; do
        case $line in
        [Cc]ontent-[Ll]ength:*) length=$(printf %s "${line#*:}" | tr -cd 0-9) ;;
        esac
    done
    [ "$length" -eq 0 ] || head -c "$length" >/dev/null
    case $request in
    *' /hello '*) status='200 OK' ;;
    *) status='404 Not Found' ;;
    esac
    printf 'HTTP/1.1 %s\r\nContent-Length: 13\r\nSegue-Generation: %s\r\nConnection: close\r\n\r\n%s\n' \
        "$status" "${SEGUE_GENERATION:-0}" 'hello, world'
}

# Waits for a connection on descriptor 3; one that comes becomes standard input and output of a command.
# shellcheck disable=SC2016 # the variables are perl's
accept='
    open(my $listener, "+<&=", 3) or die "descriptor 3: $!\n";
    vec(my $wanted = "", 3, 1) = 1;
    $listener->blocking(0);
    select($wanted, undef, undef, 1) > 0 and accept(my $connection, $listener) or exit;
    open(STDIN, "<&", $connection) and open(STDOUT, ">&", $connection) and exec(@ARGV);
'

slot()
{
    stop=
    trap 'stop=yes' TERM
    until [ "$stop" ]; do
        perl -e "$accept" socat -t 10 STDIO EXEC:"'$0' answer"
    done
}

[ "${1-}" != answer ] || {
    answer
    exit
}

pids=
# shellcheck disable=SC2086 # words on purpose
trap 'kill -TERM $pids' TERM
for _ in $(seq "$slots"); do
    slot 4>&- &
    pids="$pids $!"
done
echo >&4
exec 4>&-
wait # ends at TERM, and the slots end soon:
# shellcheck disable=SC2086 # words on purpose
wait $pids
