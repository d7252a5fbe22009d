# What must hold before the installation changes anything; sourced by install.sh.

NEEDED_OPT_MB=450 # a version takes 130 MB; while one replaces another there may be three
NEEDED_DATA_MB=200
OLDEST_DEBIAN=12
BUILT_AFTER=1767225600 # 2026-01-01, before the first release

# Every check, cheapest first. Each says what to do.
check_machine() {
  check_root
  check_system
  check_architecture
  check_clock
  check_space /opt "$NEEDED_OPT_MB"
  check_space /var/lib "$NEEDED_DATA_MB"
}

check_root() {
  [ "$(id -u)" -eq 0 ] || fail "this needs root: sudo $SCRIPT"
}

check_system() {
  local id='' version='' name='this system'
  if [ -r /etc/os-release ]; then
    id=$(. /etc/os-release && echo "${ID-}")
    version=$(. /etc/os-release && echo "${VERSION_ID-}")
    name=$(. /etc/os-release && echo "${PRETTY_NAME-}")
  fi
  [ "$id" = debian ] ||
    fail "$name is not Debian $OLDEST_DEBIAN or later (or 64-bit Raspberry Pi OS), and nothing else was tried. To look at the" \
      "appliance here: ./install.sh demo"
  [ -z "$version" ] || [ "$version" -ge "$OLDEST_DEBIAN" ] ||
    fail "$name is too old: its Python is. Upgrade to Debian $OLDEST_DEBIAN or later first"
  has systemctl && [ -d /run/systemd/system ] ||
    fail "systemd does not run here, and the appliance is a service of it. In a container: ./install.sh demo"
}

check_architecture() {
  case $(dpkg --print-architecture) in
    amd64 | arm64) ;;
    *)
      fail "there are no packages for $(dpkg --print-architecture): a 64-bit Debian for amd64 or arm64 is needed (on a" \
        "Raspberry Pi, the 64-bit Raspberry Pi OS)"
      ;;
  esac
  [ ! -e "$ROOT/ARCHITECTURE" ] || [ "$(cat "$ROOT/ARCHITECTURE")" = "$(dpkg --print-architecture)" ] ||
    fail "this bundle is for $(cat "$ROOT/ARCHITECTURE"), and this machine is $(dpkg --print-architecture): make one with" \
      "./install.sh bundle --arch $(dpkg --print-architecture)"
}

check_clock() {
  local built=$BUILT_AFTER
  [ ! -e "$ROOT/BUILT" ] || built=$(cat "$ROOT/BUILT")
  [ "$(date +%s)" -ge "$((built - 86400))" ] ||
    fail "the clock says $(date -u '+%Y-%m-%d'), which is before this version was made: certificates and readings would get wrong" \
      "times. Set it first: timedatectl set-ntp true (or, without a time server, timedatectl set-time 'YYYY-MM-DD HH:MM')"
}

# check_space FOLDER MB: whether so much is free where FOLDER is, or will be.
check_space() {
  local free_mb
  free_mb=$(df --output=avail --block-size=1M "$1" | tail -n 1 | tr -d ' ')
  [ "$free_mb" -ge "$2" ] ||
    fail "only $free_mb MB are free in $1, and $2 MB are needed: make room (apt-get clean; journalctl --vacuum-size=100M) and" \
      "try again"
}

# The system's own Python, which the service will run with.
check_python() {
  local found
  found=$("$SYSTEM_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
  case " $PYTHONS " in
    *" $found "*) ;;
    *) fail "this version of the appliance has packages for Python $PYTHONS, and this system has $found: take a newer version" ;;
  esac
}

# check_ports PORT...: whether somebody else has one of them.
check_ports() {
  local taken
  taken=$("$SYSTEM_PYTHON" - "$@" <<'EOF'
import socket, sys
for port in sys.argv[1:]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
            probe.listen()
        except (OSError, OverflowError, ValueError) as error:
            print(f"{port} ({getattr(error, 'strerror', None) or 'no port'})")
EOF
  ) || fail "the ports could not be tried, see above"
  [ -z "$taken" ] ||
    fail "these ports cannot be listened on: $(echo $taken). See who has them: ss -ltnp. Or choose others: --http-port PORT," \
      "--mqtt-port PORT"
}
