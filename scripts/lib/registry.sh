# Debian's docker-registry on loopback, with a folder of its own. Sourced after words.sh.

# Starts a registry on 127.0.0.1:PORT with its blobs below a folder; its pid is in $registry_pid.
start_registry() {
    local port=$1 folder=$2
    mkdir -p "$folder"
    cat >"$folder/config.yml" <<YAML
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $folder/blobs }, delete: { enabled: true } }
http: { addr: "127.0.0.1:$port" }
YAML
    docker-registry serve "$folder/config.yml" >"$folder/log" 2>&1 &
    registry_pid=$!
    wait_until 20 curl -fsS "http://127.0.0.1:$port/v2/" || die "docker-registry did not answer: $(cat "$folder/log")"
}

# Pushes an OCI layout: push_image LAYOUT:TAG HOST:PORT/NAME:TAG
push_image() {
    quietly skopeo copy --dest-tls-verify=false "oci:$1" "docker://$2"
}
