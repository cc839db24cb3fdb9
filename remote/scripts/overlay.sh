# One host's part of an encrypted overlay. POSIX sh, sent on the standard input of:  exec /bin/sh -s -- COMMAND ARGUMENTS
#   look PORT                                        what is there; reads only. An overlay's own port is not taken
#   up INTERFACE ADDRESS/PREFIX MTU PORT LABEL        make the interface and its key, print the public key
#   peers INTERFACE (KEY ENDPOINT ALLOWED)...         who is on the other side
#   shake INTERFACE SECONDS                           say hello to all, print who answered
#   via INTERFACE KEY ALLOWED [KEY]...                reach ALLOWED over the peer KEY; forget the other peers named
#   pass INTERFACE                                    pass packets on between peers
#   down LABEL INTERFACE|-  [RUN]...                  take down what carries LABEL, but not that of these runs
# All but look need root. The private key goes from wg to wg through a pipe: it is in no file, argument or variable.
{
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/usr/bin:/bin"
export PATH
umask 077
has() { command -v "$1" >/dev/null 2>&1; }
fail() { echo "$1" >&2; exit 1; }
last() { printf '%s\n' "$1" | tail -n 1; }
forwarding() { iptables -w "$1" FORWARD -i "$2" -o "$2" -j ACCEPT -m comment --comment hetero-tui; }

look() {
  has wg && echo 'tools yes'
  if [ -d /sys/module/wireguard ]; then echo 'kernel yes'
  elif has modprobe && modprobe -n -q wireguard 2>/dev/null; then echo 'kernel yes'; fi
  has wireguard-go && echo 'userspace yes'
  [ -c /dev/net/tun ] && echo 'tun yes'
  has ip && echo 'ip yes'
  for folder in /sys/class/net/hetero-*; do [ -d "$folder" ] && return; done
  has ss && taken=$(ss -Hlun "sport = :$1" 2>/dev/null) && [ -n "$taken" ] && echo 'port taken'
  true
}

up() {
  interface=$1
  has wg || fail 'there is no program called wg: install wireguard-tools'
  [ ! -e "/sys/class/net/$interface" ] || ip link delete dev "$interface"
  if has ss && taken=$(ss -Hlun "sport = :$4" 2>/dev/null) && [ -n "$taken" ]; then
    fail "UDP port $4 is in use on this host, by $(wg show interfaces | tr '\n' ' ')or another program"
  fi
  if ip link add dev "$interface" type wireguard 2>/dev/null; then kind=kernel
  else
    has wireguard-go || fail 'the kernel has no WireGuard, and there is no program called wireguard-go'
    [ -c /dev/net/tun ] || fail 'the kernel has no WireGuard, and without /dev/net/tun wireguard-go cannot work'
    # It gives up where it may open more files than it can handle.
    said=$( (ulimit -n 1024; exec wireguard-go "$interface") 2>&1 </dev/null) || fail "wireguard-go: $(last "$said")"
    kind=userspace
  fi
  trap 'ip link delete dev "$interface" 2>/dev/null' EXIT
  ip link set dev "$interface" alias "$5" || fail "ip link set alias did not work"
  wg genkey | wg set "$interface" listen-port "$4" private-key /dev/stdin || fail 'wg set did not work'
  ip address add "$2" dev "$interface" || fail "the address $2 could not be given to $interface"
  said=$(ip link set dev "$interface" mtu "$3" up 2>&1) || fail "$interface does not come up: $(last "$said")"
  key=$(wg show "$interface" public-key) || fail 'wg show did not work'
  trap - EXIT
  echo "kind $kind"
  echo "key $key"
}

peers() {
  interface=$1
  shift
  while [ $# -ge 3 ]; do
    wg set "$interface" peer "$1" endpoint "$2" allowed-ips "$3" || fail "wg set peer $1 did not work"
    shift 3
  done
}

shake() {
  # A keepalive is sent at once, which takes a handshake, and later keeps the way through a router's NAT open.
  for key in $(wg show "$1" peers); do wg set "$1" peer "$key" persistent-keepalive 25 || fail 'wg set did not work'; done
  rounds=$(($2 * 5))
  while [ "$rounds" -gt 0 ]; do
    case $(wg show "$1" latest-handshakes) in *'	0'*) ;; *) break ;; esac
    rounds=$((rounds - 1))
    sleep 0.2
  done
  wg show "$1" latest-handshakes | while read -r key since; do echo "shaken $key $since"; done
}

via() {
  interface=$1
  wg set "$interface" peer "$2" allowed-ips "$3" || fail 'wg set allowed-ips did not work'
  shift 3
  for key; do wg set "$interface" peer "$key" remove; done
}

pass() {
  echo 1 >"/proc/sys/net/ipv4/conf/$1/forwarding" || fail 'packets cannot be passed on'
  # Docker's engine drops what is forwarded unless a rule before its own lets it pass.
  if has iptables; then forwarding -C "$1" 2>/dev/null || forwarding -I "$1" || fail 'iptables lets nothing be passed on'; fi
}

down() {
  label=$1 wanted=$2
  shift 2
  for folder in /sys/class/net/hetero-*; do
    [ -d "$folder" ] || continue
    interface=${folder##*/} alias=
    { IFS= read -r alias <"$folder/ifalias"; } 2>/dev/null
    case $alias in "$label "*) ;; *) [ "$interface" = "$wanted" ] || continue ;; esac
    [ "$wanted" = - ] || [ "$interface" = "$wanted" ] || continue
    for run; do case $alias in *" run=$run") continue 2 ;; esac; done
    if has iptables; then forwarding -D "$interface" 2>/dev/null; fi
    # A watcher and a stop may take the same one down side by side.
    ip link delete dev "$interface" 2>/dev/null || [ ! -e "$folder" ] || fail "$interface could not be removed"
    # wireguard-go ends when its interface is gone, and takes its socket along.
    rounds=50
    while [ -e "/var/run/wireguard/$interface.sock" ] && [ "$rounds" -gt 0 ]; do rounds=$((rounds - 1)); sleep 0.1; done
    [ ! -e "/var/run/wireguard/$interface.sock" ] || fail "wireguard-go of $interface does not end"
    echo "down $interface"
  done
}

case $1 in
  look | up | peers | shake | via | pass | down) command=$1; shift; "$command" "$@" ;;
  *) fail "unknown command $1" ;;
esac
exit
}
