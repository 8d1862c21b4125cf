# A client of the PostgreSQL protocol for tests: simple queries only, one JSON line per command and per answer.
# It sends no password: a server that asks for one has been reached past the daemon.
import json, select, socket, struct, sys, threading

HOST, PORT, USER, DATABASE = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
MODE = sys.argv[5]


class Link:
    def __init__(self):
        self.socket = socket.create_connection((HOST, PORT), 30)
        self.socket.settimeout(110)
        pairs = b"".join(word.encode() + b"\0" for word in ("user", USER, "database", DATABASE)) + b"\0"
        self.socket.sendall(struct.pack("!ii", len(pairs) + 8, 196608) + pairs)

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def message(self):
        kind, length = struct.unpack("!ci", self.take(5))
        return kind, self.take(length - 4)

    def query(self, sql):
        text = sql.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", len(text) + 4) + text)

    # Everything up to the end of a reply: ready for a query, or the end of the connection.
    def reply(self):
        answer = {"rows": [], "code": None, "message": "", "hint": "", "notices": [], "closed": False}
        try:
            while True:
                kind, body = self.message()
                if kind == b"R" and struct.unpack("!i", body[:4])[0] != 0:
                    answer["code"] = "password-asked"
                    return answer
                if kind == b"Z":
                    return answer
                if kind == b"D":
                    answer["rows"].append(row(body))
                if kind in b"EN":
                    fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
                    if kind == b"N":
                        answer["notices"].append(" ".join((fields[b"M"], fields.get(b"H", ""))))
                    else:
                        answer.update(code=fields[b"C"], message=fields[b"M"], hint=fields.get(b"H", ""))
        except (EOFError, OSError) as error:
            answer["closed"] = True
            answer["code"] = answer["code"] or "no-connection"
            answer["message"] = answer["message"] or repr(error)
        return answer


def row(body):
    cells, at = [], 2
    for _ in range(struct.unpack("!h", body[:2])[0]):
        length = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        cells.append(None if length < 0 else body[at:at + length].decode())
        at += max(length, 0)
    return cells


def dial():
    try:
        link = Link()
        return link, link.reply()
    except OSError as error:
        return None, {"rows": [], "code": "no-connection", "message": repr(error), "hint": "", "notices": [], "closed": True}


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def converse():
    link, hello = dial()
    say(hello)
    for line in sys.stdin:
        command = json.loads(line)
        if "sql" in command:
            try:
                link.query(command["sql"])
            except OSError:
                pass
        say(link.reply())


# Connects again and again until standard input ends, then tells how often each thing happened.
def probe():
    seen = {}
    while not select.select([sys.stdin], [], [], 0)[0]:
        link, hello = dial()
        outcome = hello["code"] or "served"
        if outcome not in seen:
            say({"code": outcome, "message": hello["message"]})
        seen[outcome] = seen.get(outcome, 0) + 1
        if link:
            link.socket.close()
    say({"code": "end", "message": json.dumps(seen)})


# Several connections insert numbers from a start on; each confirmed number is one line.
def load():
    def work(start, step):
        link, _ = dial()
        number = start
        while link:
            try:
                link.query("INSERT INTO marks VALUES (%d)" % number)
            except OSError:
                return
            answer = link.reply()
            if answer["code"]:
                return
            sys.stdout.write('{"code": null, "message": "%d"}\n' % number)
            sys.stdout.flush()
            number += step

    first, lanes = int(sys.argv[6]), 4
    threads = [threading.Thread(target=work, args=(first + lane, lanes)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say({"code": "end", "message": ""})


{"converse": converse, "probe": probe, "load": load}[MODE]()
