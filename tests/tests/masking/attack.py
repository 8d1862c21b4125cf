"""Plays rows of attacks over raw protocol 3.0: argv = server, user, database, file of rows. One JSON line per row and mode.
The server is a port of the loopback address, or a unix socket with a further argument: a database that `database` is made
from anew before each row that changes something, so that no row sees what another left. Each row then runs once."""
import json, re, socket, struct, sys

server, user, database, path = sys.argv[1:5]
template = sys.argv[5] if len(sys.argv) > 5 else None

def z(text):
    return text.encode() + b"\0"

def message(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body

class Session:
    def __init__(self, database=database):
        if template is None:
            self.socket = socket.create_connection(("127.0.0.1", int(server)), 10)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(server)
        self.socket.settimeout(20)
        self.buffer = b""
        body = struct.pack("!I", 196608) + z("user") + z(user) + z("database") + z(database) + b"\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.seen, self.kinds, self.errors, self.cells = b"", [], [], b""
        self.ready()
        self.seen, self.kinds, self.errors, self.cells = b"", [], [], b""

    def take(self):
        while True:
            if len(self.buffer) >= 5:
                length = struct.unpack("!I", self.buffer[1:5])[0] + 1
                if len(self.buffer) >= length:
                    frame, self.buffer = self.buffer[:length], self.buffer[length:]
                    return frame
            more = self.socket.recv(65536)
            if not more:
                raise EOFError
            self.buffer += more

    def ready(self):
        while True:
            frame = self.take()
            kind, body = frame[:1], frame[5:]
            self.seen += body
            self.kinds.append(kind.decode("latin1"))
            if kind == b"E":
                self.errors.append(body.decode("utf8", "replace").replace("\0", " | "))
            if kind == b"D":
                at = 2
                for _ in range(struct.unpack("!H", body[:2])[0]):
                    size = struct.unpack("!i", body[at:at + 4])[0]
                    at += 4
                    if size > 0:
                        self.cells += body[at:at + size]
                        at += size
            if kind == b"Z":
                return
            if kind == b"G":
                self.socket.sendall(message(b"c"))

    def query(self, sql):
        self.socket.sendall(message(b"Q", z(sql)))
        self.ready()

    def parse(self, name, sql):
        return message(b"P", z(name) + z(sql) + b"\0\0")

    def bind(self, portal, name, code):
        return message(b"B", z(portal) + z(name) + struct.pack("!HHHH", 0, 0, 1, code))

    def execute(self, portal):
        return message(b"E", z(portal) + struct.pack("!I", 0))

    def extended(self, sql, code):
        self.socket.sendall(
            self.parse("", sql) + self.bind("", "", code) + message(b"D", b"P" + z("")) + self.execute("") + message(b"S"))
        self.ready()

    def raw(self, step):
        kind, _, rest = step[1:].partition(" ")
        if kind == "P":
            name, _, sql = rest.partition("|")
            self.socket.sendall(self.parse(name, sql))
        elif kind in ("B", "b"):
            portal, _, name = rest.partition("|")
            self.socket.sendall(self.bind(portal, name, 1 if kind == "b" else 0))
        elif kind == "D":
            self.socket.sendall(message(b"D", rest[:1].encode() + z(rest[1:])))
        elif kind == "C":
            self.socket.sendall(message(b"C", rest[:1].encode() + z(rest[1:])))
        elif kind == "E":
            self.socket.sendall(self.execute(rest))
        elif kind == "X":
            self.extended(rest, 0)
        elif kind == "F":
            oid, *arguments = rest.split("|")
            body = struct.pack("!IHHH", int(oid), 1, 0, len(arguments))
            for argument in arguments:
                body += struct.pack("!I", len(argument)) + argument.encode()
            body += struct.pack("!H", 0)
            self.socket.sendall(message(b"F", body))
            self.ready()
        elif kind == "S":
            self.socket.sendall(message(b"S"))
            self.ready()

def play(row, mode):
    session, end = Session(), None
    try:
        for step in row:
            if step.startswith("\\"):
                session.raw(step)
            elif mode == "simple" or mode == "raw":
                session.query(step)
            else:
                session.extended(step, 1 if mode == "binary" else 0)
    except (EOFError, OSError) as error:
        end = type(error).__name__
    session.socket.close()
    return session, end

CHANGES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|CREATE|ALTER|DROP|INTO|COPY)\b|\blo_")

def renew():
    session = Session("postgres")
    session.query(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    session.query(f"CREATE DATABASE {database} TEMPLATE {template}")
    session.socket.close()
    if session.errors:
        sys.exit(f"no new database: {session.errors}")

clean = False
for index, row in enumerate(json.load(open(path))):
    modes = ["raw"] if any(step.startswith("\\") for step in row) else ["simple", "text", "binary"]
    if template is not None:
        modes = modes[:1]
        if not clean:
            renew()
        clean = not any(CHANGES.search(step) for step in row)
    for mode in modes:
        session, end = play(row, mode)
        print(json.dumps({"row": index, "mode": mode, "hex": session.seen.hex(), "cells": session.cells.hex(),
                          "errors": session.errors, "rows": session.kinds.count("D"), "end": end}), flush=True)
