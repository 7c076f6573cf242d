# An unmodified awscli and boto3 from PyPI, in a virtual environment. Sourced after words.sh.
# Debian's awscli is too old to know AWS_ENDPOINT_URL_ECS.

venv=$root/target/venv

need_aws() {
    local wanted=$root/scripts/lib/requirements.txt
    cmp -s "$wanted" "$venv/requirements.txt" && return 0
    say "Making a virtual environment with awscli and boto3 from PyPI"
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    quietly "$venv/bin/pip" install --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/requirements.txt"
}
