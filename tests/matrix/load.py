"""Other load beside a scene of a matrix: clients that ask again and again, each in a thread, and one more
on a connection for each request. Nothing is tried twice: who was closed asks no more, or with the next
connection.
"""

import threading

from harness.deadline import until


class Load:
    def __init__(self, clients, ask, fresh, closed):
        """ask(client) asks once, and says whether it may again; fresh() asks on a connection of its own.
        closed: what they raise where the server has closed."""
        self.clients = clients
        self.answered = 0
        self.closed = []  # of the clients
        self.fresh_closed = 0
        self.refused = False
        self.errors = []
        self._stop = False
        self._changed = threading.Condition()
        self._threads = [self._start(self._keep, ask, closed, client) for client in clients]
        self._threads.append(self._start(self._open, fresh, closed))
        self.wait_more()

    def _start(self, function, *arguments):
        thread = threading.Thread(target=self._guarded, args=(function, *arguments), daemon=True)
        thread.start()
        return thread

    def _guarded(self, function, *arguments):
        try:
            function(*arguments)
        except Exception as error:  # pylint: disable=broad-except
            with self._changed:
                self.errors.append(error)
                self._changed.notify_all()

    def _note(self):
        with self._changed:
            self.answered += 1
            self._changed.notify_all()

    def _keep(self, ask, closed, client):
        goes_on = True
        while goes_on and not self._stop:
            try:
                goes_on = ask(client)
            except closed:
                self.closed.append(client)
                return
            self._note()

    def _open(self, fresh, closed):
        while not self._stop:
            try:
                fresh()
            except closed:
                self.fresh_closed += 1
                continue
            except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError):
                self.refused = True  # Reset while connecting, where the listener goes just then.
                return
            self._note()

    def wait_more(self, count=20, deadline=None):
        """Blocks until so many more requests have been answered."""
        deadline = until(deadline)
        with self._changed:
            wanted = self.answered + count
            while self.answered < wanted and not self.errors and not self.refused:
                assert self._changed.wait(deadline.left()), "nobody answers the load"

    def stop(self):
        """Each has had its last answer."""
        self._stop = True
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not self.errors, self.errors

    def end(self, may_be_refused=False):
        """The same for a service that goes on: nobody was refused. The clients that were not closed."""
        self.wait_more()
        self.stop()
        assert may_be_refused or not self.refused
        return [client for client in self.clients if client not in self.closed]
