"""What the kernel knows of a service: who holds which connection, and whether its processes grow."""

import socket
import struct

from harness import processes

# Of linux/netlink.h, linux/sock_diag.h and the states of net/tcp_states.h.
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, NLMSG_DONE = 4, 20, 0x301, 3
TIME_WAIT, LISTEN, ALL_STATES = 6, 10, 0xFFF & ~1



def sockets(port):
    """{inode: the client's port, or None for a listener} of the TCP sockets at one of our ports. By
    sock_diag(7), since /proc/net/tcp lists the tens of thousands that wait for their last packets."""
    states = ALL_STATES & ~(1 << TIME_WAIT)
    ask = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, states)
    ask += struct.pack("!H", port) + bytes(46)
    head = struct.pack("=IHHII", 16 + len(ask), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0)
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.send(head + ask)
        while True:
            data = netlink.recv(1 << 18)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == NLMSG_DONE:
                    return found
                if kind != SOCK_DIAG_BY_FAMILY:
                    raise OSError(-struct.unpack_from("=i", data, 16)[0], "sock_diag")
                state = data[17]
                (client,) = struct.unpack_from("!H", data, 22)
                (inode,) = struct.unpack_from("=I", data, 84)
                found[str(inode)] = None if state == LISTEN else client
                data = data[length:]


def inodes(pid):
    try:
        targets = processes.descriptors(pid).values()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [target[8:-1] for target in targets if target.startswith("socket:[")]


def accepts(pid, table):
    """Whether it watches a listener of the table of sockets(): each of its loops does so until it has
    heard that the generation drains, which is later than the log says."""
    listeners = {f"ino:{int(inode):x}" for inode, client in table.items() if client is None}
    folder = f"/proc/{pid}/fdinfo"
    return any(listeners & set(open(f"{folder}/{fd}", encoding="ascii").read().split())
               for fd, target in processes.descriptors(pid).items() if target == "anon_inode:[eventpoll]")


class Growth:
    """Compares each process with the first of its role, and with itself when it was first at rest."""

    SLACK, OWN_SLACK, KIB = 3, 1, 16384

    def __init__(self):
        self._first = {}

    def look(self, subject, serving):
        """What has grown: a text each."""
        found = []
        for pid in subject.members():
            found += self._descriptors(subject, pid, len(serving))
            if not subject.world.sanitized:
                kib = int(processes.status(pid)["RssAnon"].split()[0])
                found += self._compare(subject.role(pid), pid, "KiB of memory", kib, self.KIB, self.KIB)
        return found

    def _descriptors(self, subject, pid, workers):
        # A connection may come or go between two looks.
        known = set(sockets(subject.life.address[1]))
        targets = processes.descriptors(pid).values()
        known |= set(sockets(subject.life.address[1]))
        others = sorted(one for one in targets if one[8:-1] not in known)
        # The supervisor keeps the file that a worker runs, and that of one started again.
        kept = [one for one in others if one.startswith(str(subject.path))]
        others = [one for one in others if one not in kept]
        found = [f"{pid} keeps {kept} for {workers} workers"] if len(kept) > 2 * workers else []
        return found + self._compare(subject.role(pid), pid, "descriptors beside connections",
                                     len(others), self.SLACK, self.OWN_SLACK, others)

    def _compare(self, role, pid, what, count, slack, own_slack, detail=""):
        found = []
        for key, most in ((role, slack), ((role, pid), own_slack)):
            first, then = self._first.setdefault((key, what), (count, detail))
            if count > first + most:
                found.append(f"{count} {what} of the {role}, pid {pid}: {detail}; {first} at first: {then}")
        return found
