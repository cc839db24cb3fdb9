#!/bin/sh
# Installs what the rig needs, where that is wanted: as root, on Debian, with CI=true. Anywhere else it only says in
# one line what is missing, because nobody asked for packages on their own machine.
set -eu

# command:package, one per line; a command that is there needs no package.
wanted='sshd:openssh-server
ssh:openssh-client
ssh-keygen:openssh-client
dockerd:docker.io
ip:iproute2
tc:iproute2
iptables:iptables
nsenter:util-linux
setpriv:util-linux
ps:procps
mmdebstrap:mmdebstrap
docker-registry:docker-registry
ufw:ufw
nft:nftables
faketime:faketime
docker-compose:docker-compose
sudo:sudo
rsync:rsync
ethtool:ethtool
wg:wireguard-tools
wireguard-go:wireguard-go
fish:fish
chromium-headless-shell:chromium-headless-shell'

PATH="$PATH:/usr/sbin:/sbin"
packages=''
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 && continue
    case " $packages " in *" ${pair#*:} "*) ;; *) packages="$packages ${pair#*:}" ;; esac
done
packages="${packages# }"
[ -n "$packages" ] || exit 0

system="$(. /etc/os-release 2>/dev/null && printf '%s' "${ID:-unknown}")" || system=unknown
if [ "${CI:-}" != true ] || [ "$(id -u)" -ne 0 ] || [ "$system" != debian ]; then
    echo "rig: the tests on real hosts will be skipped; they need root on Debian and: $packages"
    exit 0
fi

fail() {
    echo "rig: $1" >&2
    exit 1
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-unsafe-io \
        -o APT::Update::Error-Mode=any "$@" </dev/null
}

# The rig starts its own sshd and dockerd in namespaces; the ones the packages bring must not start on this machine.
policy=/usr/sbin/policy-rc.d
saved="$(mktemp -d)"
restore() {
    rm -f "$policy"
    [ ! -e "$saved/policy-rc.d" ] || mv "$saved/policy-rc.d" "$policy"
    rm -rf "$saved"
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
[ ! -e "$policy" ] || mv "$policy" "$saved/policy-rc.d"
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

log="$saved/apt.log"
apt update >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    fail 'apt-get update failed: is a Debian mirror reachable from this machine?'
}
# Word splitting is what turns the list into arguments.
# shellcheck disable=SC2086
apt install --no-install-recommends $packages >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    fail "apt-get install $packages failed"
}
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || fail "${pair#*:} is installed but has no command ${pair%%:*}"
done
echo "rig: installed $packages"
