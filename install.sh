#!/usr/bin/env bash
#
# The IIoT Edge Appliance: install it, try it, test it.
#
#   sudo ./install.sh [install] [options]    as a service of this machine, Debian 12 or 13 on amd64 or arm64; again: nothing
#   sudo ./install.sh upgrade [options]      this version in place of the installed one, which comes back if this one does
#                                            not get ready
#   sudo ./install.sh rollback               the version before; nothing that was stored since is lost
#   sudo ./install.sh uninstall [--purge]    data and settings stay; --purge removes them too
#   ./install.sh bundle [--arch amd64|arm64] [--output FILE]   one file for boxes without internet: sudo bash FILE
#   ./install.sh demo [--seconds N] [--devices N]   everything on this machine: appliance, devices, a stand-in for Odoo
#   ./install.sh demo --odoo                        the same with a real Odoo 19, which is fetched once (two minutes)
#   ./install.sh test [arguments for pytest]        style, types and all tests
#   ./install.sh help                               this text
#
# Options of install and upgrade, all of which may be left out:
#   --odoo-url URL         Odoo's address, for --enroll and for what is said at the end
#   --enroll CODE          pair with Odoo: the code from the gateway's form there; - reads it from standard input
#   --hostname NAME        what devices are told to connect to (default: the machine's name)
#   --name NAME            name of this gateway (default: the machine's name)
#   --http-port PORT       port of pages and API (default: 8000)
#   --mqtt-port PORT       port of the broker (default: 8883)
#   --set NAME=VALUE       any other setting; may be given several times
#   --settings FILE        a whole file of settings, NAME=value a line
# They are written to /etc/iiot-appliance/appliance.env at the first installation; a file that is there stays as it is.
#
# Installing checks first (system, architecture, clock, space, ports), and changes nothing if a check fails; whatever fails
# later is taken back. systemd/README.md says what lies where. Where Debian's python3 is missing it is installed, and stays.
#
# demo and test make a Python environment in .venv beside this script, and use it as long as pyproject.toml is the same.
# Debian packages that are missing are installed when the script runs as root; otherwise it says which are needed.
#
# Variables that it reads:
#   ENROLL_CODE    as --enroll, but not to be seen in the list of processes
#   READY_WITHIN_S   seconds that a version has for getting ready (default: 120)
#   PYTHON         Python to build .venv with, 3.11 or later (default: python3, else python3.13, 3.12, 3.11)
#   TEST_WORKERS   how many tests run at a time (default: auto, one for each processor)
#   TEST_ODOO_..., TEST_CACHE   which Odoo the tests run on, and where it is kept: see tests/odoo/README.md
#   PIP_...        pip's own variables and configuration files hold as everywhere, such as an index of your own
#
# Exit status: 0 good, 1 failed and taken back (with --enroll: installed, but not paired), 2 wrong usage.

set -euo pipefail

SCRIPT=${BASH_SOURCE[0]:-$0}
ROOT=$(cd "$(dirname "$SCRIPT")" && pwd)
VENV=$ROOT/.venv
OLDEST_PYTHON=3.11
READY_WITHIN_S=${READY_WITHIN_S:-120}

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "install.sh: $*"
  exit 1
}

wrong_usage() {
  say "install.sh: $*. See: $SCRIPT help"
  exit 2
}

# value_of OPTION [VALUE...]: the option's value.
value_of() {
  [ $# -ge 2 ] || wrong_usage "$1 needs a value"
  printf '%s\n' "$2"
}

usage() { sed -n '3,/^$/s/^# \{0,1\}//p' "$SCRIPT"; }

has() { command -v "$1" >/dev/null 2>&1; }

# What is taken back, last thing first, when the script ends before it has reached commit.
UNDO=()

# undo COMMAND [ARGUMENT...]
undo() { UNDO+=("$(printf '%q ' "$@")"); }

commit() { UNDO=(); }

on_exit_undo() {
  trap take_back EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

take_back() {
  local status=$? number
  trap - EXIT
  trap '' INT TERM HUP
  set +e
  for ((number = ${#UNDO[@]} - 1; number >= 0; number--)); do
    eval "${UNDO[number]}"
  done
  [ "$status" -eq 0 ] || [ ${#UNDO[@]} -eq 0 ] || say "Everything else is as it was before."
  exit "$status"
}

# Whether this Python is new enough and can make environments (Debian keeps that in a package of its own).
can_build() { "$1" -c "import ensurepip, sys, venv; sys.exit(sys.version_info < (${OLDEST_PYTHON/./, }))" >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if can_build "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# install_packages PACKAGE...: installs them, or fails where that is not possible.
install_packages() {
  has apt-get && [ "$(id -u)" -eq 0 ] || return 1
  say "Installing Debian packages: $*"
  local output
  output=$(
    apt-get -q update 2>&1 &&
      DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends "$@" 2>&1
  ) || {
    say "$output"
    return 1
  }
}

ensure_python() {
  find_python >/dev/null && return
  [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python $OLDEST_PYTHON or later with the modules venv and ensurepip"
  install_packages python3 python3-venv || true
  find_python >/dev/null ||
    fail "Python $OLDEST_PYTHON or later with venv is needed. On Debian, as root: apt-get install python3 python3-venv"
}

# The README's commands are tried with these, lost power with a library that the test compiles, the installation in bare Debian
# systems that boot in containers, and the status page in a
# browser. Without them the tests concerned are skipped, and say so.
ensure_test_tools() {
  local missing=()
  has mosquitto_rr || missing+=(mosquitto-clients)
  has curl || missing+=(curl)
  has openssl || missing+=(openssl)
  has gcc || has cc || missing+=(gcc libc6-dev)
  has chromium && has chromedriver || missing+=(chromium chromium-driver)
  has systemd-nspawn && has systemd-analyze || missing+=(systemd systemd-container)
  has debootstrap || missing+=(debootstrap)
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}" ||
    say "Some tests will be skipped. To run them, install: ${missing[*]}"
}

# The real Odoo of the tests keeps its data in PostgreSQL, which the tests start themselves: the cluster that Debian's
# package would make and start here is not wanted.
ensure_postgresql() {
  has initdb || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null && return
  local no_cluster=/etc/postgresql-common/createcluster.d/iiot-appliance-tests.conf
  if [ "$(id -u)" -eq 0 ]; then
    mkdir -p "${no_cluster%/*}"
    echo "create_main_cluster = false" >"$no_cluster"
  fi
  install_packages postgresql ||
    say "There can be no real Odoo without PostgreSQL. On Debian, as root: apt-get install postgresql"
  rm -f "$no_cluster"
}

# Gets Odoo, unless the arguments name other tests only. Without it those tests are skipped, or fail where CI is set.
ensure_odoo() {
  local argument named=no
  for argument in "$@"; do
    case $argument in
      --co | --collect-only) return ;;
      -*) ;;
      tests | tests/ | */tests | tests/odoo* | */tests/odoo*) named=odoo && break ;;
      *) [ ! -e "${argument%%::*}" ] || named=other ;;
    esac
  done
  [ "$named" != other ] || return 0
  ensure_postgresql
  "$VENV/bin/python" -m tests.odoo.prepare || say "The tests on it will be skipped."
}

# The same Odoo for the demo, which cannot do without.
ensure_demo_odoo() {
  ensure_postgresql
  (cd "$ROOT" && "$VENV/bin/python" -m tests.odoo.prepare 19) || fail "the demo with a real Odoo cannot start, see above"
}

# Debian's promtool judges /metrics. It comes with the whole Prometheus server, which would start a service here: so it is
# taken out of the package, which is not installed.
ensure_promtool() {
  has promtool || [ -x "$VENV/bin/promtool" ] && return
  has apt-get && has dpkg-deb || return 0
  local folder
  folder=$(mktemp -d)
  (
    cd "$folder" &&
      { [ "$(id -u)" -ne 0 ] || apt-get -q update; } &&
      apt-get -q -o APT::Sandbox::User=root download prometheus &&
      dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool &&
      chmod 755 promtool &&
      mv promtool "$VENV/bin/"
  ) >/dev/null 2>&1 || say "The test of the metrics' form will be skipped. To run it, install: prometheus"
  rm -rf "$folder"
}

# What .venv was built from: other dependencies, another Python or another place make it out of date.
wanted_stamp() {
  {
    printf '%s\n' "$ROOT"
    "$(find_python)" -c 'import sys; print(sys.base_prefix, sys.version)' # the same inside an activated .venv
    cat "$ROOT/pyproject.toml"
  } | sha256sum | cut -d' ' -f1
}

venv_is_current() {
  [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/.stamp" 2>/dev/null)" = "$(wanted_stamp)" ]
}

build_venv() {
  local python
  python=$(find_python)
  say "Making the Python environment in $VENV (once; a minute or two)"
  "$python" -m venv --clear "$VENV"
  "$VENV/bin/python" -m pip install -qq --disable-pip-version-check \
    --editable "${ROOT}[simulator,addon,test]" >&2 || fail "pip could not install the packages, see above"
  wanted_stamp >"$VENV/.stamp"
}

ensure_venv() {
  ensure_python
  venv_is_current && return
  # Two runs at once must not build the same environment; the lock ends with the subshell.
  (
    flock 9
    venv_is_current || build_venv
  ) 9>"$ROOT/.venv.lock"
}

demo() {
  local argument
  ensure_venv
  for argument in "$@"; do
    [ "$argument" != --odoo ] || ensure_demo_odoo
  done
  exec "$VENV/bin/python" -m firmware_sim demo "$@"
}

run_tests() {
  ensure_test_tools
  ensure_venv
  ensure_promtool
  export PATH="$PATH:$VENV/bin"
  cd "$ROOT"
  ensure_odoo "$@"
  "$VENV/bin/ruff" check .
  "$VENV/bin/ruff" format --check .
  "$VENV/bin/mypy"
  exec "$VENV/bin/python" -m pytest -n "${TEST_WORKERS:-auto}" --dist loadgroup "$@"
}

# production COMMAND [ARGUMENT...]: what has to do with the installation as a service stands in files of its own.
production() {
  local part
  for part in checks versions settings installation; do
    [ -r "$ROOT/systemd/$part.sh" ] ||
      fail "$ROOT/systemd/$part.sh is missing: keep install.sh in its folder, as the checkout or archive has it"
  done
  for part in checks versions settings installation; do
    . "$ROOT/systemd/$part.sh"
  done
  "$@"
}

main() {
  local command=${1:-install}
  [ $# -eq 0 ] || shift
  case $command in
    demo) demo "$@" ;;
    test) run_tests "$@" ;;
    install | upgrade) production install_appliance "$command" "$@" ;;
    rollback | uninstall | bundle) production "$command" "$@" ;;
    help | -h | --help) usage ;;
    -*) production install_appliance install "$command" "$@" ;;
    *)
      say "install.sh: unknown command: $command"
      usage >&2
      exit 2
      ;;
  esac
}

main "$@"
