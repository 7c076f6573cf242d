# The suites of scripts/test, one function each. Sourced last.

suite_format() { cargo fmt --all --check; }

suite_lint() {
    need_packages $packages_build
    cargo clippy --locked --workspace --all-targets -- -D warnings
    # scripts/fuzz is run too seldom to tell that a lock file of its programs has fallen behind.
    local room
    for room in runtime image; do
        cargo metadata --locked --format-version 1 --manifest-path "$room/fuzz/Cargo.toml" >/dev/null
    done
}

suite_unit() {
    need_packages $packages_build
    cargo test --locked --workspace
}

# Tests of single crates that need root, among the kernel's own objects.
suite_root() {
    ready_for_root
    # The agent's tests run the real longshore-runtime.
    "$root/scripts/build" dev
    cargo test --locked --workspace --exclude longshore-tests --no-run
    leaving_nothing in_private cargo test --locked --offline --workspace --exclude longshore-tests \
        --no-fail-fast -- --ignored
}

# The house seen from the street. Each test makes namespaces of its own.
suite_e2e() {
    ready_for_street
    leaving_nothing cargo test --locked -p longshore-tests "${street_tests[@]}" --no-fail-fast -- \
        --ignored --test-threads=2
}

# CPU shares and quotas are measured, so nothing else may run.
suite_limits() {
    ready_for_street
    leaving_nothing cargo test --locked -p longshore-tests --test limits -- --ignored --test-threads=1
}

# The races of `root`, for minutes in place of seconds.
suite_races() {
    ready_for_root
    export LONGSHORE_TEST_ROUNDS=1000
    cargo test --locked -p longshore-runtime --test races --no-run
    leaving_nothing in_private cargo test --locked --offline -p longshore-runtime --test races \
        --no-fail-fast -- --ignored
}

suite_vm() { "$root/scripts/lib/vm"; }
suite_guest() { "$root/scripts/lib/vm" suites; }
suite_minbase() { "$root/scripts/lib/minbase"; }
suite_demo() {
    "$root/scripts/demo"
    "$root/scripts/demo"
}

# Every file of tests/tests but limits.rs.
street_tests=()
for file in "$root"/tests/tests/*.rs; do
    name=$(basename "$file" .rs)
    [ "$name" = limits ] || street_tests+=(--test "$name")
done

ready_for_root() {
    need_root
    need_packages $packages_build $packages_host $packages_small $packages_image $packages_rootless $packages_engines
}

ready_for_street() {
    ready_for_root
    need_packages $packages_aws
    need_aws
    "$root/scripts/build" dev
    need_web_image
}

# Own mounts and own network; temporary files in memory, where many small files cost nothing.
in_private() {
    unshare --mount --propagation private --net -- bash -c '
        ip link set lo up
        mount -t tmpfs tmpfs /run
        TMPDIR=$(mktemp -d) && export TMPDIR
        mount -t tmpfs tmpfs "$TMPDIR"
        status=0
        "$@" || status=$?
        umount -l "$TMPDIR"
        rmdir "$TMPDIR"
        exit $status' in_private "$@"
}

# Runs a command and fails if it leaves a mount, cgroup, namespace, link, table, folder or process behind.
leaving_nothing() {
    local before after status=0
    before=$(census)
    "$@" || status=$?
    after=$(census)
    diff <(printf '%s' "$before") <(printf '%s' "$after") ||
        { say "the lines above with > were left behind"; status=1; }
    return $status
}

# "passed failed" over all of cargo's closing lines in a file.
count_results() {
    awk '/^test result:/ { p += $4; f += $6 } /^N?[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
        END { print p + 0, f + 0 }' "$1"
}
