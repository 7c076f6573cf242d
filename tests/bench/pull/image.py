"""The image of `scripts/bench pull`, made from Debian's packages: six layers, a single-layer twin and a zstd twin.

  image.py ROOT CACHE        ROOT: folders l1 to l5, the upper directories of an overlay stack; CACHE/images gets OCI layouts
  image.py --many ROOT CACHE CACHE/many becomes the layout of an image of a hundred layers, each of three hundred small files

Layers 1 to 5 are what an overlay mount left in its upper directory, with overlayfs's marks turned into those of a layer. The
sixth is made here: bytes that do not compress, twenty thousand small files, and one of each rarity.
"""

import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
CAPABILITY = bytes([1, 0, 0, 2, 0, 4] + [0] * 14).decode("latin-1")  # CAP_NET_BIND_SERVICE


def entry(path, name):
    """A tar entry of a file on disk, with the extended attributes that an image may have."""
    meta = os.lstat(path)
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(meta.st_mode), meta.st_uid, meta.st_gid
    info.mtime = int(meta.st_mtime)
    kind = stat.S_IFMT(meta.st_mode)
    if kind == stat.S_IFLNK:
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif kind == stat.S_IFDIR:
        info.type = tarfile.DIRTYPE
    elif kind == stat.S_IFREG:
        info.size = meta.st_size
    elif kind == stat.S_IFIFO:
        info.type = tarfile.FIFOTYPE
    else:
        info.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
        info.devmajor, info.devminor = os.major(meta.st_rdev), os.minor(meta.st_rdev)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        for attribute in os.listxattr(path):
            if attribute.startswith("user.") or attribute == "security.capability":
                value = os.getxattr(path, attribute).decode("latin-1")
                info.pax_headers[f"SCHILY.xattr.{attribute}"] = value
    return info, meta


def layer_of_upper(upper, below, to):
    """Writes the tar of an overlay's upper directory; names in the order of the tree."""
    known = {}
    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as tar:

        def walk(folder, name):
            for child in sorted(os.listdir(folder)):
                path, inner = f"{folder}/{child}", f"{name}{child}"
                info, meta = entry(path, inner)
                if info.type == tarfile.CHRTYPE and meta.st_rdev == 0:
                    tar.addfile(tarfile.TarInfo(f"{name}.wh.{child}"))
                    continue
                if info.isreg() and meta.st_nlink > 1:
                    if meta.st_ino in known:
                        info.type, info.linkname, info.size = tarfile.LNKTYPE, known[meta.st_ino], 0
                    known.setdefault(meta.st_ino, inner)
                if info.isreg():
                    with open(path, "rb") as data:
                        tar.addfile(info, data)
                    continue
                tar.addfile(info)
                if info.isdir():
                    # overlayfs marks every new directory; only those that hide another need it.
                    hides = any(os.path.isdir(f"{lower}/{inner}") for lower in below)
                    if hides and "trusted.overlay.opaque" in os.listxattr(path):
                        tar.addfile(tarfile.TarInfo(f"{inner}/.wh..wh..opq"))
                    walk(path, f"{inner}/")

        walk(upper, "")


def app_layer(to):
    """48 MB that do not compress, 20,000 small files, and one of each rarity."""
    chance = random.Random(4)
    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name, data=b"", kind=tarfile.REGTYPE, mode=0o644, link="", pax=None):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
            info.uid = info.gid = 1000
            info.mtime = 1_700_000_000
            info.pax_headers = dict(pax or {})
            tar.addfile(info, io.BytesIO(data))

        words = [bytes(chance.randbytes(6).hex(), "ascii") for _ in range(4000)]
        add("app", kind=tarfile.DIRTYPE, mode=0o755)
        for number in range(6):
            add(f"app/random-{number}", chance.randbytes(8 * 1024 * 1024))
        for folder in range(200):
            add(f"app/{folder:03}", kind=tarfile.DIRTYPE, mode=0o755)
            for file in range(100):
                size = chance.randrange(20, 1000)
                text = b" ".join(chance.choice(words) for _ in range(size // 2))
                add(f"app/{folder:03}/{file:03}.txt", text[: size * 10])
        for number in range(10):
            add(f"app/hard-{number}", kind=tarfile.LNKTYPE, link=f"app/{number:03}/000.txt")
        add("app/setuid", b"#!/bin/true\n", mode=0o4755)
        add("app/bind", b"#!/bin/true\n", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY})
        add("app/noted", b"x", pax={"SCHILY.xattr.user.note": "kept"})
        add("app/" + "n" * 250, b"long")
        add("app/größe-日本", b"unicode")


def merged(layers, to):
    """The image's tree as one layer: of each name the topmost, without what is removed."""
    seen, hidden, kept = set(), set(), []

    def is_hidden(name):
        parts = name.split("/")
        return any("/".join(parts[: end + 1]) in hidden for end in range(len(parts)))

    for layer in reversed(layers):
        here, hides = [], set()
        with tarfile.open(layer) as tar:
            for info in tar:
                folder, _, last = info.name.rpartition("/")
                if last == ".wh..wh..opq":
                    hides.add(("below", folder))
                elif last.startswith(".wh."):
                    hides.add(("all", f"{folder}/{last[4:]}".lstrip("/")))
                elif info.name not in seen and not is_hidden(info.name):
                    here.append(info)
        seen.update(info.name for info in here)
        for what, name in hides:
            if what == "all":
                hidden.add(name)
            else:
                opaque = name + "/"
                hidden.update(
                    info.name for below in layers[: layers.index(layer)] for info in names(below)
                    if info.name.startswith(opaque) and info.name not in seen
                )
        kept.append((layer, here))
    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as out:
        for layer, here in reversed(kept):
            inside = {info.name for info in here}
            with tarfile.open(layer) as tar:
                for info in here:
                    data = None
                    if info.isreg():
                        data = tar.extractfile(info)
                    elif info.islnk() and info.linkname not in inside:
                        # Its target is gone; the file is not.
                        data = tar.extractfile(info)
                        file = tar.getmember(info.linkname)
                        info.type, info.size, info.linkname = tarfile.REGTYPE, file.size, ""
                    out.addfile(info, data)


def names(layer):
    with tarfile.open(layer) as tar:
        return list(tar)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compressed(layer, how):
    to = f"{layer}.{'gz' if how == GZIP else 'zst'}"
    command = ["gzip", "-n", "-6", "-c", layer] if how == GZIP else ["zstd", "-q", "-3", "-c", layer]
    with open(to, "wb") as file:
        return to, subprocess.Popen(command, stdout=file)


def layout(layers, how, to):
    """An OCI layout of these tars, compressed."""
    blobs = f"{to}/blobs/sha256"
    os.makedirs(blobs)
    # Two at a time, the largest first.
    packed, running = {}, []
    for layer in sorted(layers, key=os.path.getsize, reverse=True):
        if len(running) == 2:
            assert running.pop(0).wait() == 0
        packed[layer], process = compressed(layer, how)
        running.append(process)
    for process in running:
        assert process.wait() == 0

    def blob(media_type, path):
        size, hexed = os.path.getsize(path), digest(path)
        shutil.move(path, f"{blobs}/{hexed}")
        return {"mediaType": media_type, "digest": f"sha256:{hexed}", "size": size}

    def document(media_type, content):
        with open(f"{to}/document", "w") as file:
            json.dump(content, file)
        return blob(media_type, f"{to}/document")

    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = {
        "architecture": machine, "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}" for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": document("application/vnd.oci.image.config.v1+json", config),
        "layers": [blob(how, packed[layer]) for layer in layers],
    }
    index = document("application/vnd.oci.image.manifest.v1+json", manifest)
    index["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    with open(f"{to}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [index]}, file)
    with open(f"{to}/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)


def many(root, cache):
    layers = [f"{root}/many-{number:03}.tar" for number in range(100)]
    for number, layer in enumerate(layers):
        with tarfile.open(layer, "w") as tar:
            for file in range(300):
                info = tarfile.TarInfo(f"{number}-{file}")
                info.size = len(info.name)
                tar.addfile(info, io.BytesIO(info.name.encode()))
    made = f"{cache}/many.new"
    shutil.rmtree(made, ignore_errors=True)
    layout(layers, GZIP, made)
    os.rename(made, f"{cache}/many")


def main():
    if sys.argv[1] == "--many":
        return many(*sys.argv[2:])
    root, cache = sys.argv[1:]
    layers = [f"{root}/{number}.tar" for number in range(1, 7)]
    for number in range(1, 6):
        below = [f"{root}/l{lower}" for lower in range(1, number)]
        layer_of_upper(f"{root}/l{number}", below, layers[number - 1])
    app_layer(layers[5])
    single = f"{root}/single.tar"
    merged(layers, single)
    made = f"{cache}/images.new"
    shutil.rmtree(made, ignore_errors=True)
    layout(layers, GZIP, f"{made}/six")
    layout([single], GZIP, f"{made}/single")
    layout(layers, ZSTD, f"{made}/zstd")
    for number, layer in enumerate(layers + [single], 1):
        kind = f"layer {number}" if layer != single else "single"
        print(f"{kind}: {os.path.getsize(layer) / 1e6:.1f} MB, {len(names(layer))} entries", flush=True)
    os.rename(made, f"{cache}/images")


if __name__ == "__main__":
    main()
