# What this host is. POSIX sh (dash, ash, bash, ksh, zsh), sent on the standard input of:
#   exec /bin/sh -s -- <master port> <master address or ''>
# Reads only. Prints key<TAB>value lines between two markers; whatever start-up files print outside them is ignored.
# The braces make the shell read the whole script before it runs anything: no tool can eat the rest from standard input.
{
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/bin:/opt/homebrew/bin:/usr/sbin:/sbin:/snap/bin:/usr/lib/wsl/lib:$HOME/.docker/bin:$HOME/.rd/bin:$HOME/.orbstack/bin"
export PATH
PORT=${1:-29500} MASTER=${2:-}
TAB=$(printf '\t') NL='
'
has() { command -v "$1" >/dev/null 2>&1; }
fact() {
  case $2 in
    *"$NL"* | *"$TAB"*) printf '%s\t%s\n' "$1" "$(printf '%s' "$2" | tr '\t\r\n' '   ')" ;;
    ?*) printf '%s\t%s\n' "$1" "$2" ;;
  esac
}
# macOS has no timeout(1), but perl.
limited() {
  if has timeout; then timeout "$@"; elif has perl; then perl -e 'alarm shift; exec @ARGV' "$@"; else shift; "$@"; fi
}
# Nanoseconds, or seconds with a fraction, or whole seconds where nothing better exists.
now() {
  n=$(date +%s%N 2>/dev/null)
  case $n in *[!0-9]*) n= ;; esac
  [ ${#n} -gt 15 ] || n=$(perl -MTime::HiRes=time -e 'printf "%.6f", time' 2>/dev/null) ||
    n=$(python3 -c 'import time; print("%.6f" % time.time())' 2>/dev/null) || n=$(date +%s)
  printf '%s' "$n"
}
echo '@@HTUI1'
fact clock "$(now)"

# Tools that may take a while run side by side; each line is one write, so lines do not mix.
{
  if [ "$(id -u)" = 0 ]; then fact sudo root
  elif has sudo && limited 3 sudo -n true >/dev/null 2>&1; then fact sudo nopass
  else fact sudo no; fi
} &
{
  Q=index,name,uuid,memory.total,driver_version F='--format=csv,noheader,nounits'
  if has nvidia-smi; then
    G=$(limited 8 nvidia-smi --query-gpu=$Q,compute_cap $F 2>&1) || G=$(limited 8 nvidia-smi --query-gpu=$Q $F 2>&1)
    E=$?
    if [ $E = 0 ]; then printf '%s\n' "$G" | while IFS= read -r line; do fact gpu "$line"; done
    else fact gpu_error "nvidia-smi exited $E: $(printf '%s' "$G" | head -c 400)"; fi
    has nvidia-ctk && fact nvidia_ctk "$(nvidia-ctk --version 2>/dev/null | head -n 1)"
    fact cdi "$(ls /etc/cdi /var/run/cdi 2>/dev/null)"
  else
    for v in $(grep -l 0x10de /sys/bus/pci/devices/*/vendor 2>/dev/null); do
      read -r class <"${v%vendor}class"
      case $class in 0x0300* | 0x0302*) fact gpu_error 'an NVIDIA GPU is installed, but nvidia-smi is not: no driver'; break ;; esac
    done
  fi
  [ -e /dev/kfd ] && fact rocm yes
} &
[ -n "$MASTER" ] && {
  A=$(now)
  if has getent; then limited 2 getent hosts "$MASTER" >/dev/null 2>&1
  elif has dscacheutil; then limited 2 dscacheutil -q host -a ip_address "$MASTER" >/dev/null 2>&1; fi
  fact reverse_dns "$A $(now)"
} &

OS=$(uname -s)
fact system "$OS"
fact kernel "$(uname -r)"
fact architecture "$(uname -m)"
fact hostname "$(uname -n)"
fact user "$(id -un)"
fact user_id "$(id -u)"
fact groups "$(id -Gn)"
fact home "$HOME"
DATA=$HOME
# A name is looked up here, for this host may see another address than the master does.
case $MASTER in
  *[!0-9.]*) has getent && MASTER=$(limited 3 getent ahostsv4 "$MASTER" 2>/dev/null | sed -n '1s/ .*//p') ;;
esac
case $OS in
  Linux)
    fact distribution "$(. /etc/os-release 2>/dev/null && echo "$ID $VERSION_ID")"
    fact cpu_count "$(getconf _NPROCESSORS_ONLN 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
    fact cpu_model "$(sed -n '/^model name/{s/^[^:]*: *//p;q;}' /proc/cpuinfo)"
    OWN=$(sed -n 's/^0:://p' /proc/self/cgroup 2>/dev/null)
    for f in /sys/fs/cgroup/cpu.max "/sys/fs/cgroup$OWN/cpu.max"; do [ -r "$f" ] && read -r q <"$f" && fact cpu_quota "$q"; done
    f=/sys/fs/cgroup/cpu/cpu.cfs
    [ -r ${f}_quota_us ] && read -r q <${f}_quota_us && read -r p <${f}_period_us && fact cpu_quota "$q $p"
    fact memory "$(sed -n 's/^\(MemTotal\|MemAvailable\): *\([0-9]*\) kB/\1 \2/p' /proc/meminfo)"
    [ -r /etc/machine-id ] && read -r m </etc/machine-id && fact machine_id "$m"
    grep -qi microsoft /proc/version 2>/dev/null && fact wsl yes
    if has ip; then
      ip -4 -o addr show 2>/dev/null | while read -r _ name _ address _; do
        name=${name%%@*}
        fact address "$name ${address%%/*}"
        [ -r "/sys/class/net/$name/mtu" ] && read -r m <"/sys/class/net/$name/mtu" && fact mtu "$name $m"
      done
      # Asking for the route to 192.0.2.1 (documentation range) names the default interface and sends nothing.
      fact route "$(ip route get "${MASTER:-192.0.2.1}" 2>/dev/null | head -n 1)"
    elif has ifconfig; then
      ifconfig -a | awk '/^[a-z]/ {n = $1; sub(/:$/, "", n)} $1 == "inet" {sub(/addr:/, "", $2); print "address\t" n " " $2}'
    fi
    H=$(printf '%04X' "$PORT")
    fact port_listening "$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v h=":$H" '$4 == "0A" && substr($2, length($2) - 4) == h {n++} END {print n + 0}')"
    fact ephemeral_ports "$(cat /proc/sys/net/ipv4/ip_local_port_range 2>/dev/null)"
    [ -r /etc/ufw/ufw.conf ] && grep -q '^ENABLED=yes' /etc/ufw/ufw.conf && fact firewall ufw
    has firewall-cmd && limited 3 firewall-cmd --state >/dev/null 2>&1 && fact firewall firewalld
    [ "$(id -u)" = 0 ] && has nft && nft list ruleset 2>/dev/null | grep -q 'hook input.*policy drop' && fact firewall nftables
    ROOT=$(sed -n 's/.*"data-root" *: *"\([^"]*\)".*/\1/p' /etc/docker/daemon.json 2>/dev/null)
    for d in "$ROOT" /var/lib/docker "$HOME/.local/share/docker"; do [ -n "$d" ] && [ -d "$d" ] && DATA=$d && break; done
    ;;
  Darwin)
    fact distribution "macOS $(sw_vers -productVersion)"
    fact cpu_count "$(sysctl -n hw.ncpu)"
    fact cpu_model "$(sysctl -n machdep.cpu.brand_string)"
    fact memory "MemTotal $(($(sysctl -n hw.memsize) / 1024)) MemAvailable $(vm_stat | awk -v p="$(sysctl -n hw.pagesize)" '/Pages (free|inactive|speculative|purgeable)/ {n += $NF} END {print int(n * p / 1024)}')"
    fact machine_id "$(ioreg -rd1 -c IOPlatformExpertDevice | sed -n 's/.*IOPlatformUUID" = "\(.*\)"/\1/p')"
    ifconfig | awk '/^[a-z]/ {n = $1; sub(/:$/, "", n)} $1 == "inet" {print "address\t" n " " $2}'
    D=$(route -n get "${MASTER:-default}" 2>/dev/null | sed -n 's/ *interface: //p')
    [ -n "$D" ] && fact route "dev $D src $(ipconfig getifaddr "$D" 2>/dev/null)" && fact mtu "$D $(ifconfig "$D" | sed -n 's/.* mtu \([0-9]*\).*/\1/p')"
    fact port_listening "$(netstat -an -p tcp | awk -v p=".$PORT" '$6 == "LISTEN" && substr($4, length($4) - length(p) + 1) == p {n++} END {print n + 0}')"
    fact ephemeral_ports "$(sysctl -n net.inet.ip.portrange.first) $(sysctl -n net.inet.ip.portrange.last)"
    /usr/libexec/ApplicationFirewall/socketfilterfw --getglobalstate 2>/dev/null | grep -q enabled && fact firewall macos-application-firewall
    ;;
esac
fact disk "$(df -Pk "$DATA" 2>/dev/null | awk 'NR == 2 {print $4}') $DATA"
for s in "${DOCKER_HOST#unix://}" /var/run/docker.sock "/run/user/$(id -u)/docker.sock" "$HOME/.docker/run/docker.sock" "$HOME/.docker/desktop/docker.sock" "$HOME/.colima/default/docker.sock" "$HOME/.orbstack/run/docker.sock" "$HOME/.rd/docker.sock" "$HOME/.lima/docker/sock/docker.sock"; do
  [ -S "$s" ] || continue
  if [ -w "$s" ]; then fact engine_socket "rw $s"; else fact engine_socket "denied $s"; fi
done
for t in docker python3 podman zstd; do has "$t" && fact "path_$t" "$(command -v "$t")"; done
wait
fact clock_end "$(now)"
echo '@@END'
} </dev/null
