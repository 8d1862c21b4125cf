# Raw PostgreSQL messages on a socket, for tests that need bytes no driver would send. Every wait has a limit.
import socket, ssl, struct, sys, time

PORT, USER, DATABASE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
LIMIT = 40
SSL_REQUEST, GSSENC_REQUEST = struct.pack("!II", 8, 80877103), struct.pack("!II", 8, 80877104)


def dial():
    return socket.create_connection(("127.0.0.1", PORT), LIMIT)


def startup(minor=0, user=USER, **settings):
    pairs = {"user": user, "database": DATABASE, **settings}
    body = struct.pack("!HH", 3, minor)
    body += b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in pairs.items()) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def frame(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


def query(text):
    return frame(b"Q", (text if isinstance(text, bytes) else text.encode()) + b"\0")


def parse(name, text):
    return frame(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(portal="", name="", formats=()):
    head = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack("!HHH", 0, 0, len(formats))
    return frame(b"B", head + b"".join(struct.pack("!H", each) for each in formats))


def describe(what, name=""):
    return frame(b"D", what + name.encode() + b"\0")


def execute(portal="", rows=0):
    return frame(b"E", portal.encode() + b"\0" + struct.pack("!I", rows))


SYNC, FLUSH = frame(b"S"), frame(b"H")


def fields(body):
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


def values(body):
    count, at, out = struct.unpack("!H", body[:2])[0], 2, []
    for _ in range(count):
        size = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        out.append(None if size < 0 else body[at:at + size])
        at += max(size, 0)
    return out


class Session:
    def __init__(self, minor=0, sock=None, start=True, **settings):
        self.sock, self.buffer, self.key, self.version = sock or dial(), b"", None, None
        if start:
            self.send(startup(minor, **settings))
            self.ready()

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))
        return self

    def more(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def message(self):
        """The next message, or None when the connection has ended."""
        while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack("!I", self.buffer[1:5])[0]:
            if not self.more():
                assert not self.buffer, "the connection ended inside a message: %r" % self.buffer[:80]
                return None
        size = 1 + struct.unpack("!I", self.buffer[1:5])[0]
        kind, body, self.buffer = self.buffer[:1], self.buffer[5:size], self.buffer[size:]
        if kind == b"K":
            self.key = body
        if kind == b"v":
            self.version = body
        return kind, body

    def until(self, last=b"Z"):
        """Messages up to and with one of this type; asynchronous ones are left out."""
        seen = []
        while True:
            message = self.message()
            assert message, "the connection ended, after %r" % seen[-3:]
            if message[0] not in (b"N", b"S"):
                seen.append(message)
            if message[0] == last:
                return seen

    def ready(self):
        seen = self.until()
        assert not [body for kind, body in seen if kind == b"E"], seen
        return seen

    def ask(self, text):
        self.send(query(text))
        return self.until()

    def error(self, text):
        """Sends a statement that must fail with a native error and leave the session in step."""
        seen = self.ask(text)
        assert kinds(seen) == "EZ", seen
        return fields(seen[0][1])

    def alive(self):
        seen = self.ask("SELECT 41 + 1")
        assert [values(body) for kind, body in seen if kind == b"D"] == [[b"42"]], seen

    def fatal(self):
        """The error that the session ends with; None if it is just closed."""
        found = None
        while True:
            message = self.message()
            if message is None:
                return found
            assert message[0] not in (b"Z", b"D"), message
            if message[0] == b"E":
                found = fields(message[1])


def kinds(seen):
    return b"".join(kind for kind, _ in seen).decode()


def rows(seen):
    return [values(body) for kind, body in seen if kind == b"D"]


def errors(seen):
    return [fields(body) for kind, body in seen if kind == b"E"]
