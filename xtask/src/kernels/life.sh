#!/bin/busybox sh
# A daemon's life in the guest, as far as the programs on security hooks go: one line `life: ok WHAT` or `life: failed WHAT` each.
# An agent here is a shell that enters the agents' cgroup with every right, and looks into a process outside.
PATH=/bin:/busy
/bin/busybox mkdir -p /busy /var/chaperone/policies /var/empty
/bin/busybox --install -s /busy
echo 'root:x:0:0:root:/:/bin/sh' > /etc/passwd
cat > /etc/chaperone.toml <<'END'
state_dir = "/var/chaperone/state"
runtime_dir = "/run/chaperone"
policy_dir = "/var/chaperone/policies"
[intercept]
security_hooks = true
[dns]
enabled = false
[[agent]]
name = "worker"
END
echo '@id("none") forbid (principal, action, resource);' > /var/chaperone/policies/test.cedar
: > /var/chaperone/policies/columns.toml

pins() { ls -d /sys/fs/bpf/chaperone/v*/secure_* 2>/dev/null | wc -l; }
# What an agent that tries says; the daemon removes empty cgroups when it starts.
attempt() {
  mkdir -p "$box"
  sh -c 'echo $$ > "$0/cgroup.procs" && echo entered && cat /proc/1/environ 2>&1' "$box"
}
box=/sys/fs/cgroup/agents.slice/worker/box
# Whether the first process's environment can be read, among the agents or outside.
agent() { attempt > /var/tried; grep -q HOME= /var/tried; }
refused() { attempt > /var/tried; grep -q entered /var/tried && ! grep -q HOME= /var/tried; }
outsider() { grep -q HOME= /proc/1/environ; }
start() {
  chaperone daemon --config /etc/chaperone.toml 2>> /var/daemon.log &
  daemon=$!
  tries=0
  until chaperone status --config /etc/chaperone.toml > /var/status 2>/dev/null; do
    tries=$((tries + 1)); [ $tries -gt 60 ] && break; sleep 0.5
  done
}
within() { tries=0; until "$@"; do tries=$((tries + 1)); [ $tries -gt 20 ] && return 1; sleep 0.5; done; }
check() { what=$1; shift; if "$@"; then echo "life: ok $what"; else echo "life: failed $what"; cat /var/tried; tail -5 /var/daemon.log; fi; }
all() { [ "$(pins)" = 16 ]; }
none() { [ "$(pins)" = 0 ]; }
# An agent's own: a child's environment, a signal to it, a connection to itself.
# Neither child nor server is there at once.
own_child() {
  mkdir -p "$box"
  sh -c 'echo $$ > "$0/cgroup.procs"
    MINE=1 sleep 30 &
    for look in 1 2 3 4 5 6 7 8 9 10; do grep -q MINE=1 /proc/$!/environ && break; sleep 0.5; done
    cat /proc/$!/environ && kill $! && echo killed' "$box" > /var/tried 2>&1
  grep -q MINE=1 /var/tried && grep -q killed /var/tried
}
own_server() {
  mkdir -p "$box"
  sh -c 'echo $$ > "$0/cgroup.procs"
    nc -l -p 7000 -e echo word &
    for look in 1 2 3 4 5 6 7 8 9 10; do sleep 1 | nc 127.0.0.1 7000 | grep word && break; done' "$box" > /var/tried 2>&1
  grep -q word /var/tried
}
signals() { mkdir -p "$box"; sh -c 'echo $$ > "$0/cgroup.procs" && echo entered && kill -CONT 1' "$box" > /var/tried 2>&1; }
# A line that an agent's `logger` sends by a unix socket that it has: an outsider writes down what arrives.
letter() { echo "$1" >&3; }
arrives() { grep -q "worker: $1" /var/letters; }
not_arrives() { sleep 2; ! arrives "$1"; }
told() { chaperone "$@" --config /etc/chaperone.toml > /var/tried 2>&1; }
no_signal() { ! signals && grep -q entered /var/tried; }
unlinked() { rm /sys/fs/bpf/chaperone/v*/secure_*; }

start
check "a daemon puts every program in place" all
check "an agent sees nothing of a process outside" refused
check "an outsider does" outsider
check "an agent sees its own child and ends it" own_child
check "an agent reaches its own server" own_server
check "an agent sends no signal to a process outside" no_signal
syslogd -n -O /var/letters & letters=$!
mkfifo /var/post
sh -c 'echo $$ > "$0/cgroup.procs"; exec logger -t worker < /var/post' "$box" &
exec 3> /var/post
letter one
check "an agent writes to a unix socket that root may use" within arrives one
check "it is quarantined" told quarantine worker
letter two
check "and what it writes on the socket that it has arrives no more" not_arrives two
check "it is released" told release worker
letter three
check "and what it writes then arrives" within arrives three
exec 3>&-
kill $letters
unlinked
check "an agent sees nothing while the pins are gone" refused
check "a daemon pins them again" within all
kill -9 $daemon; wait $daemon 2>/dev/null
check "an agent sees nothing when the daemon was killed" refused
check "the pins outlive it" all
start
check "a daemon that starts again takes them over" all
check "an agent still sees nothing" refused
kill $daemon; wait $daemon 2>/dev/null
sed -i 's/security_hooks = true/security_hooks = false/' /etc/chaperone.toml
start
check "a daemon that is told to do without takes them away" none
# The kernel takes each program away some moments after its last link, in no order.
check "an agent then sees it, so that it was these programs" within agent
check "and sends signals" within signals
kill $daemon; wait $daemon 2>/dev/null
chaperone uninstall --config /etc/chaperone.toml > /dev/null 2>&1
check "nothing is left" test ! -e /sys/fs/bpf/chaperone
echo "life: over"
