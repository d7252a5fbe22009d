# A version of the appliance as a folder, and as one file; sourced by install.sh.
#
# The folder holds all that its box needs: wheels (for every Python in PYTHONS, so that an upgrade of the operating system
# needs no network), systemd, install.sh, README.md, and VERSION. A bundle is such a folder behind a script that unpacks it.

PYTHONS="3.11 3.13" # of Debian 12 and 13

# The name of what would be installed from here: its number, and a digest of all that it is made of.
source_version() {
  if [ -e "$ROOT/VERSION" ]; then
    cat "$ROOT/VERSION"
    return
  fi
  local number digest
  number=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/pyproject.toml")
  digest=$(
    cd "$ROOT"
    find appliance firmware_sim systemd install.sh pyproject.toml README.md -type f ! -name '*.pyc' -print0 |
      LC_ALL=C sort --zero-terminated | xargs --null sha256sum | sha256sum
  )
  echo "$number-${digest:0:12}"
}

# pip_platforms ARCH: what pip calls the systems whose packages run on Debian 12 and later.
pip_platforms() {
  local machine glibc
  case $1 in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) fail "there are no packages for $1: --arch amd64 or --arch arm64" ;;
  esac
  echo "--platform manylinux2014_$machine"
  for glibc in 17 24 26 27 28 31 34 35 36; do
    echo "--platform manylinux_2_${glibc}_$machine"
  done
}

# make_version FOLDER ARCH: fills the folder, from the folder of a bundle or from a checkout and the network.
make_version() {
  local folder=$1
  if [ -e "$ROOT/VERSION" ]; then
    cp -R "$ROOT/." "$folder/"
    rm -rf "$folder"/venv "$folder"/venv-* "$folder/complete"
    return
  fi
  mkdir -p "$folder/wheels"
  cp -R "$ROOT/systemd" "$ROOT/install.sh" "$ROOT/README.md" "$folder/"
  download_packages "$folder/wheels" "$2"
  source_version >"$folder/VERSION"
  echo "$2" >"$folder/ARCHITECTURE"
  date +%s >"$folder/BUILT"
}

# download_packages FOLDER ARCH: the appliance as a wheel, and the wheels that it needs, for each of PYTHONS; pip's too, which
# installs them.
download_packages() {
  local wheels=$1 tools python options
  tools=$(mktemp -d)
  undo rm -rf "$tools"
  read -r -d '' -a options < <(pip_platforms "$2") || true
  say "Fetching the packages (30 MB)"
  "$(find_python)" -m venv "$tools/venv"
  pip_of "$tools" wheel --no-deps --wheel-dir "$wheels" "$ROOT"
  for python in $PYTHONS; do
    pip_of "$tools" download --dest "$wheels" --only-binary=:all: --implementation cp --python-version "$python" \
      "${options[@]}" "$wheels"/iiot_appliance-*.whl pip
  done
  rm -rf "$tools"
}

pip_of() {
  local tools=$1 log
  shift
  log=$("$tools/venv/bin/python" -m pip --disable-pip-version-check --quiet "$@" 2>&1) || {
    say "$log"
    fail "the packages could not be fetched, see above. For a box without internet make a bundle on another machine:" \
      "./install.sh bundle"
  }
}

bundle() {
  local arch='' output='' work name payload
  has dpkg && arch=$(dpkg --print-architecture)
  while [ $# -gt 0 ]; do
    case $1 in
      --arch) arch=$(value_of "$@") ;;
      --output) output=$(value_of "$@") ;;
      *) wrong_usage "bundle knows no $1" ;;
    esac
    shift 2
  done
  [ -n "$arch" ] || wrong_usage "for which architecture? --arch amd64 or --arch arm64"
  pip_platforms "$arch" >/dev/null
  ensure_python
  [ ! -e "$ROOT/VERSION" ] || [ "$(cat "$ROOT/ARCHITECTURE")" = "$arch" ] ||
    fail "this is an installed version for $(cat "$ROOT/ARCHITECTURE"): make the bundle from a checkout"
  name=iiot-appliance-$(source_version)-$arch.run
  [ -n "$output" ] || output=$name
  [ ! -d "$output" ] || output=$output/$name
  on_exit_undo
  work=$(mktemp -d)
  undo rm -rf "$work"
  mkdir "$work/version"
  make_version "$work/version" "$arch"
  chmod -R go-w,a+rX "$work/version"
  payload=$work/payload.tar
  tar --create --file "$payload" --directory "$work/version" --owner 0 --group 0 --sort name .
  bundle_head "$(source_version)" "$arch" "$(sha256sum "$payload" | cut -d' ' -f1)" >"$work/head"
  undo rm -f "$output.new"
  cat "$work/head" "$payload" >"$output.new"
  chmod 755 "$output.new"
  mv "$output.new" "$output"
  say "$output holds everything for Debian 12 and 13 on $arch. On the box: sudo bash ${output##*/}"
}

# bundle_head VERSION ARCH DIGEST: the script in front of a bundle's archive. Cut off anywhere, the file does nothing: in the
# script main is not reached, in the archive the digest is wrong.
bundle_head() {
  cat <<EOF
#!/usr/bin/env bash
#
# IIoT Edge Appliance $1 for Debian 12 and 13 on $2, complete: it needs no network.
#
#   sudo bash FILE [install|upgrade] [options]      see: bash FILE help

set -euo pipefail

main() {
  folder=\$(mktemp -d) # not local: the trap comes after main
  trap 'rm -rf "\$folder"' EXIT
  tail -n +\$((\$(grep -an -m 1 '^__ARCHIVE__\$' "\$0" | cut -d: -f1) + 1)) "\$0" >"\$folder/archive.tar"
  if [ "\$(sha256sum "\$folder/archive.tar" | cut -d' ' -f1)" != $3 ]; then
    echo "\$0 is not complete, or was changed on its way: copy it again. Nothing was changed." >&2
    exit 1
  fi
  mkdir "\$folder/version"
  tar --extract --file "\$folder/archive.tar" --directory "\$folder/version" --no-same-owner
  rm "\$folder/archive.tar"
  bash "\$folder/version/install.sh" "\$@"
}

main "\$@"
exit
__ARCHIVE__
EOF
}
