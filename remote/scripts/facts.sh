# What this host is. POSIX sh (dash, ash, bash, ksh, zsh), sent on the standard input of:
#   exec /bin/sh -s -- <master port> <master address or ''>
# Reads only. Prints key<TAB>value lines between two markers; whatever start-up files print outside them is ignored.
# The braces make the shell read the whole script before it runs anything: no tool can eat the rest from standard input.
# Each process costs a host a millisecond or more, so files are read by the shell itself and few tools are called.
{
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/bin:/opt/homebrew/bin:/usr/sbin:/sbin:/snap/bin:/usr/lib/wsl/lib:$HOME/.docker/bin:$HOME/.rd/bin:$HOME/.orbstack/bin"
export PATH
PORT=${1:-29500} MASTER=${2:-}
TAB='	' NL='
'
has() { command -v "$1" >/dev/null 2>&1; }
fact() {
  case $2 in
    *"$NL"* | *"$TAB"*) key=$1; set -f; set -- $2; set +f; printf '%s\t%s\n' "$key" "$*" ;;
    ?*) printf '%s\t%s\n' "$1" "$2" ;;
  esac
}
# macOS has no timeout(1), but perl.
limited() {
  if has timeout; then timeout "$@"; elif has perl; then perl -e 'alarm shift; exec @ARGV' "$@"; else shift; "$@"; fi
}
# N: nanoseconds, or seconds with a fraction, or whole seconds where nothing better exists.
now() {
  N=$(date +%s%N 2>/dev/null)
  case $N in *[!0-9]*) N= ;; esac
  [ ${#N} -gt 15 ] || N=$(perl -MTime::HiRes=time -e 'printf "%.6f", time' 2>/dev/null) ||
    N=$(python3 -c 'import time; print("%.6f" % time.time())' 2>/dev/null) || N=$(date +%s)
}
# N: seconds since whenever, to hundredths where the kernel tells.
tick() { if [ -r /proc/uptime ]; then read -r N _ </proc/uptime; else now; fi; }
# FOUND: where a program is.
find() {
  FOUND= IFS=:
  for d in $PATH; do [ -x "$d/$1" ] && FOUND=$d/$1 && break; done
  unset IFS
}
line() { L=; [ -r "$1" ] && IFS= read -r L <"$1"; [ -n "$L" ]; }
echo '@@HTUI1'
now
fact clock "$N"
OS=$(uname -snrm)
ID=$(id)
USER_ID=${ID#uid=} USER_ID=${USER_ID%%[!0-9]*}
fact uname "$OS"
fact id "$ID"
fact home "$HOME"

# Tools that may take a while run side by side; each line is one write, so lines do not mix.
if [ "$USER_ID" = 0 ]; then fact sudo root
elif has sudo; then { if limited 3 sudo -n true >/dev/null 2>&1; then fact sudo nopass; else fact sudo no; fi; } &
else fact sudo no; fi
if has nvidia-smi; then {
  Q=index,name,uuid,memory.total,driver_version F='--format=csv,noheader,nounits'
  G=$(limited 8 nvidia-smi --query-gpu=$Q,compute_cap $F 2>&1) || G=$(limited 8 nvidia-smi --query-gpu=$Q $F 2>&1)
  E=$?
  if [ $E = 0 ]; then printf '%s\n' "$G" | while IFS= read -r line; do fact gpu "$line"; done
  else fact gpu_error "nvidia-smi exited $E: $(printf '%s' "$G" | head -c 400)"; fi
  has nvidia-ctk && fact nvidia_ctk "$(nvidia-ctk --version 2>/dev/null | head -n 1)"
  fact cdi "$(ls /etc/cdi /var/run/cdi 2>/dev/null)"
} & else
  for v in /sys/bus/pci/devices/*/vendor; do
    line "$v" && [ "$L" = 0x10de ] && line "${v%vendor}class" || continue
    case $L in 0x0300* | 0x0302*) fact gpu_error 'an NVIDIA GPU is installed, but nvidia-smi is not: no driver'; break ;; esac
  done
fi
[ -e /dev/kfd ] && fact rocm yes
[ -n "$MASTER" ] && {
  tick; A=$N
  if has getent; then limited 2 getent hosts "$MASTER"
  elif has dscacheutil; then limited 2 dscacheutil -q host -a ip_address "$MASTER"; fi >/dev/null 2>&1
  tick
  fact reverse_dns "$A $N"
} &

DATA=$HOME
# A name is looked up here, for this host may see another address than the master does.
case $MASTER in
  *[!0-9.]*) has getent && MASTER=$(limited 3 getent ahostsv4 "$MASTER" 2>/dev/null | sed -n '1s/ .*//p') ;;
esac
case $OS in
  Linux*)
    [ -r /etc/os-release ] && {
      D= V=
      while IFS='=' read -r k v; do case $k in ID) D=${v#\"} D=${D%\"} ;; VERSION_ID) V=${v#\"} V=${V%\"} ;; esac; done </etc/os-release
      fact distribution "$D $V"
    }
    if line /sys/devices/system/cpu/online; then fact cpu_online "$L"
    else fact cpu_count "$(getconf _NPROCESSORS_ONLN 2>/dev/null || grep -c ^processor /proc/cpuinfo)"; fi
    i=0
    while [ $i -lt 12 ] && IFS= read -r l; do
      i=$((i + 1))
      case $l in "model name"*) fact cpu_model "${l#*: }"; break ;; esac
    done </proc/cpuinfo
    OWN=
    while IFS= read -r l; do case $l in 0::*) OWN=${l#0::} ;; esac; done 2>/dev/null </proc/self/cgroup
    for f in /sys/fs/cgroup/cpu.max "/sys/fs/cgroup$OWN/cpu.max"; do line "$f" && fact cpu_quota "$L"; done
    f=/sys/fs/cgroup/cpu/cpu.cfs
    line ${f}_quota_us && Q=$L && line ${f}_period_us && fact cpu_quota "$Q $L"
    M= i=0
    while [ $i -lt 4 ] && read -r k v _; do i=$((i + 1)); case $k in MemTotal: | MemAvailable:) M="$M ${k%:} $v" ;; esac; done </proc/meminfo
    fact memory "${M# }"
    line /etc/machine-id && fact machine_id "$L"
    W=
    case $OS in *[Mm]icrosoft*) W=yes ;; *) [ -e /proc/sys/fs/binfmt_misc/WSLInterop ] && W=yes ;; esac
    [ -n "$W" ] && fact wsl yes && has wslinfo && fact wsl_networking "$(limited 3 wslinfo --networking-mode 2>/dev/null)"
    line /sys/fs/selinux/enforce && fact selinux "$L"
    if has ip; then
      ip -4 -o addr show 2>/dev/null | while read -r _ name _ address _; do
        name=${name%%@*}
        fact address "$name ${address%%/*}"
        line "/sys/class/net/$name/mtu" && fact mtu "$name $L"
      done
      # Asking for the route to 192.0.2.1 (documentation range) names the default interface and sends nothing.
      R=$(ip route get "${MASTER:-192.0.2.1}" 2>/dev/null)
      fact route "${R%%"$NL"*}"
    elif has ifconfig; then
      ifconfig -a | awk '/^[a-z]/ {n = $1; sub(/:$/, "", n)} $1 == "inet" {sub(/addr:/, "", $2); print "address\t" n " " $2}'
    fi
    while read -r name d _ _ _ _ _ m _; do
      case $d in 00000000 | Destination) ;; *) fact network "$name $d $m" ;; esac
    done 2>/dev/null </proc/net/route
    # Netlink asks for listeners only; /proc/net/tcp walks every socket there is.
    if has ss && L=$(ss -Hltn "sport = :$PORT" 2>/dev/null); then [ -n "$L" ] && fact port_listening 1
    else
      H=$(printf '%04X' "$PORT")
      fact port_listening "$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v h=":$H" '$4 == "0A" && substr($2, length($2) - 4) == h {n++} END {print n + 0}')"
    fi
    # Not by the shell: files of sysctl answer the first read only, and it reads byte by byte.
    fact ephemeral_ports "$(cat /proc/sys/net/ipv4/ip_local_port_range 2>/dev/null)"
    fact reserved_ports "$(cat /proc/sys/net/ipv4/ip_local_reserved_ports 2>/dev/null)"
    [ -r /etc/ufw/ufw.conf ] && while IFS= read -r l; do [ "$l" = ENABLED=yes ] && fact firewall ufw; done </etc/ufw/ufw.conf
    has firewall-cmd && { limited 3 firewall-cmd --state >/dev/null 2>&1 && fact firewall firewalld; } &
    ROOT=
    [ -r /etc/docker/daemon.json ] && ROOT=$(sed -n 's/.*"data-root" *: *"\([^"]*\)".*/\1/p' /etc/docker/daemon.json)
    [ -e "$HOME/.config/systemd/user/docker.service" ] && fact docker_rootless yes
    for d in "$ROOT" /var/lib/docker "$HOME/.local/share/docker" /var/snap/docker/common/var-lib-docker; do [ -n "$d" ] && [ -d "$d" ] && DATA=$d && break; done
    ;;
  Darwin*)
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
    [ -d /Applications/Docker.app ] && fact docker_desktop yes
    ;;
esac
fact df "$DATA
$(df -Pk "$DATA" 2>/dev/null)"
U=/run/user/$USER_ID
for s in "${DOCKER_HOST#unix://}" /var/run/docker.sock "$U/docker.sock" "$HOME/.docker/run/docker.sock" "$HOME/.docker/desktop/docker.sock" "$HOME/.colima/default/docker.sock" "$HOME/.orbstack/run/docker.sock" "$HOME/.rd/docker.sock" "$HOME/.lima/docker/sock/docker.sock"; do
  [ -S "$s" ] || continue
  if [ -w "$s" ]; then fact engine_socket "rw $s"; else fact engine_socket "denied $s"; fi
done
for t in docker python3 podman colima zstd; do has $t && find $t && fact "path_$t" "$FOUND"; done
# Fedora's podman-docker puts a shell script in docker's place.
find docker
[ -n "$FOUND" ] && read -r l <"$FOUND" 2>/dev/null && case $l in '#!'*sh*) grep -q podman "$FOUND" && fact docker_shim podman ;; esac
wait
now
fact clock_end "$N"
echo '@@END'
} </dev/null
