# Debian packages, by what they are for. Sourced after words.sh.

packages_build="gcc libc6-dev ca-certificates"
packages_image="busybox-static skopeo umoci docker-registry"
packages_host="e2fsprogs iproute2 nftables procps util-linux"
packages_aws="python3 python3-venv"
packages_small="curl jq"
packages_vm="mmdebstrap e2fsprogs qemu-system-x86"
packages_minbase="mmdebstrap git"
packages_rootless="uidmap"
packages_engines="podman containerd docker.io"
packages_peers="$packages_engines crun runc"

# Installs those of the named packages that are missing.
need_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root
    say "Installing Debian packages: ${missing[*]}"
    apt_lists
    without_services quietly env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"
}

# Runs a command while Debian's packages may start no service: the registry is for our own use on loopback.
without_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    "$@" || status=$?
    rm -f "$policy"
    return "$status"
}

# Fetches apt's lists once per machine.
apt_lists() {
    ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || quietly apt-get update
}

# Fetches the .deb files of the named packages into a folder, once.
debs() {
    local into=$1 package
    shift
    mkdir -p "$into"
    # apt's own user must be able to write there, or apt warns.
    for package in "$@"; do
        ls "$into/${package}"_*.deb >/dev/null 2>&1 && continue
        apt_lists
        (cd "$into" && quietly apt-get -o APT::Sandbox::User=root download "$package")
    done
}
