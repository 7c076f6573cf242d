# The small image that the demo, the tests and the bench run: Debian's busybox with a web page, in four
# layers, made by umoci, kept below target/. Sourced after words.sh and packages.sh.

web_image=$cache/web-image

# Makes the image once; the layout is at $web_image, its tag is "latest".
need_web_image() {
    cmp -s "$root/scripts/lib/image.sh" "$web_image/made" && return 0
    need_packages $packages_image
    debs "$cache/debs" busybox-static base-files base-passwd netbase
    rm -rf "$web_image"
    local work
    work=$(mktemp -d "$cache/image.XXXXXX")
    umoci init --layout "$web_image"
    umoci new --image "$web_image:latest"
    layer_base "$work"
    layer_files "$work"
    layer_page "$work"
    layer_whiteout "$work"
    web_config
    rm -rf "$work"
    cp "$root/scripts/lib/image.sh" "$web_image/made"
}

# One layer: unpack what is there, let a function change the root, pack the difference.
add_layer() {
    local work=$1 change=$2
    rm -rf "$work/bundle"
    quietly umoci unpack --image "$web_image:latest" "$work/bundle"
    "$change" "$work/bundle/rootfs"
    quietly umoci repack --image "$web_image:latest" "$work/bundle"
}

layer_base() { add_layer "$1" put_base; }
put_base() {
    local rootfs=$1 deb applet
    for deb in "$cache"/debs/base-files_*.deb "$cache"/debs/busybox-static_*.deb; do dpkg-deb -x "$deb" "$rootfs"; done
    rm -rf "$rootfs/usr/share/doc" "$rootfs/usr/share/man"
    for applet in $("$rootfs/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$rootfs/bin/$applet"
    done
}

layer_files() { add_layer "$1" put_files; }
put_files() {
    local rootfs=$1 work
    work=$(mktemp -d "$cache/files.XXXXXX")
    for deb in "$cache"/debs/base-passwd_*.deb "$cache"/debs/netbase_*.deb; do dpkg-deb -x "$deb" "$work"; done
    mkdir -p "$rootfs/etc"
    cp "$work/usr/share/base-passwd/passwd.master" "$rootfs/etc/passwd"
    cp "$work/usr/share/base-passwd/group.master" "$rootfs/etc/group"
    cp "$work/etc/services" "$work/etc/protocols" "$rootfs/etc/"
    rm -rf "$work"
}

layer_page() { add_layer "$1" put_page; }
put_page() {
    local rootfs=$1
    mkdir -p "$rootfs/srv/www"
    printf '<!doctype html>\n<title>Longshore</title>\n<h1>Served from a task of your own ECS</h1>\n' >"$rootfs/srv/www/index.html"
    printf 'this file is removed by the next layer\n' >"$rootfs/srv/www/draft.html"
    printf '/bin/true\n' >"$rootfs/srv/not-executable"
    printf '.html:text/html; charset=utf-8\n' >"$rootfs/etc/httpd.conf"
    chown -R 33:33 "$rootfs/srv/www"
    # The first process of a pid namespace gets no signal that it has not asked for, so httpd alone would
    # have to be killed.
    printf '#!/bin/sh\ntrap "exit 0" TERM\nhttpd "$@" &\nwait\n' >"$rootfs/bin/serve"
    chmod 755 "$rootfs/bin/serve"
}

layer_whiteout() { add_layer "$1" remove_draft; }
remove_draft() { rm "$1/srv/www/draft.html"; }

web_config() {
    umoci config --image "$web_image:latest" \
        --config.entrypoint /bin/serve \
        --config.cmd -f --config.cmd -vv --config.cmd -p --config.cmd 8080 --config.cmd -h --config.cmd /srv/www \
        --config.env PATH=/usr/sbin:/usr/bin:/sbin:/bin --config.env GREETING=hello \
        --config.user www-data --config.workingdir /srv/www \
        --config.stopsignal SIGTERM
}
