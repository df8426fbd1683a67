/* SPDX-License-Identifier: MIT */
/*
 * See manager.h. Every message goes through the queue, in order: the first of it is sent when
 * the manager's socket has room, so that a slow manager never holds up the loop.
 *
 * A stored socket carries the name "stored.NAME", which no listener can have: when it comes back
 * it is told apart from those of socket units, which the manager holds by itself.
 * Source: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)
 */
#include "segue/manager.h"

#include "core/fd.h"
#include "core/listenfds.h"
#include "core/notify.h"
#include "segue/log.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUE_MAX       64
#define STATUS_MAX      256
#define TEXT_MAX        512
#define STORED          "stored."
#define ESCAPED_MAX     (255 - sizeof(STORED) + 1) /* systemd's FDNAME_MAX */
#define EXTEND_EVERY_MS 5000
#define EXTEND_BY_MS    20000

struct message {
	char text[TEXT_MAX];
	int fd; /* -1: none */
};

struct passed {
	struct manager_socket socket;
	bool taken;
	dev_t dev;
	ino_t ino;
};

struct manager {
	struct sg_notify notify;
	uv_timer_t watchdog, extend;
	uv_poll_t room;
	unsigned int handles; /* of the three, those that are not closed yet */
	bool waiting;         /* for room */
	bool complained;
	struct message queue[QUEUE_MAX];
	size_t queue_first, queue_len;
	struct passed *passed;
	size_t passed_len, passed_next;
};

/* The queue. */

static struct message *queued(struct manager *manager, size_t place)
{
	return &manager->queue[(manager->queue_first + place) % QUEUE_MAX];
}

static void forget_first(struct manager *manager)
{
	struct message *message = queued(manager, 0);

	message->fd = sg_fd_close(message->fd);
	manager->queue_first = (manager->queue_first + 1) % QUEUE_MAX;
	manager->queue_len--;
}

/* A manager that is gone or refuses is complained about once; it may come back (daemon-reexec). */
static void complain(struct manager *manager, int error)
{
	if (!manager->complained)
		log_say("warning", NULL, "the service manager does not listen: %s",
		        strerror(-error));
	manager->complained = true;
}

static bool has_room(struct manager *manager)
{
	struct pollfd poller = { .fd = manager->notify.fd, .events = POLLOUT };

	return poll(&poller, 1, 0) > 0;
}

static void send_queued(struct manager *manager)
{
	while (manager->queue_len > 0 && has_room(manager)) {
		struct message *first = queued(manager, 0);
		int r = sg_notify_send(&manager->notify, first->text, first->fd);

		if (r == -EAGAIN)
			break;
		if (r < 0)
			complain(manager, r);
		else
			manager->complained = false;
		forget_first(manager);
	}
}

static void on_room(uv_poll_t *poll, int status, int events);

static void wait_for_room(struct manager *manager)
{
	bool wanted = manager->queue_len > 0;

	if (wanted == manager->waiting)
		return;
	manager->waiting = wanted;
	if (wanted)
		(void)uv_poll_start(&manager->room, UV_WRITABLE, on_room);
	else
		(void)uv_poll_stop(&manager->room);
}

static void on_room(uv_poll_t *poll, int status, int events)
{
	struct manager *manager = poll->data;

	(void)status;
	(void)events;
	send_queued(manager);
	wait_for_room(manager);
}

/* fd is duplicated; -1: none. */
static void say(struct manager *manager, const char *text, int fd)
{
	struct message *message;

	if (manager->notify.fd < 0)
		return;
	if (manager->queue_len == QUEUE_MAX)
		forget_first(manager);
	if (fd >= 0) {
		fd = sg_fd_dup(fd);
		if (fd < 0)
			return;
	}
	message = queued(manager, manager->queue_len++);
	snprintf(message->text, sizeof(message->text), "%s", text);
	message->fd = fd;
	send_queued(manager);
	wait_for_room(manager);
}

/* One assignment and a status, of which a line is kept. */
static void say_state(struct manager *manager, const char *state, const char *status)
{
	char text[TEXT_MAX];
	int len;

	if (status == NULL) {
		say(manager, state, -1);
		return;
	}
	len = snprintf(text, sizeof(text), "%s%sSTATUS=", state, state[0] != '\0' ? "\n" : "");
	snprintf(text + len, STATUS_MAX, "%s", status);
	for (char *at = text + len; *at != '\0'; at++)
		if ((unsigned char)*at < 0x20 || *at == 0x7f)
			*at = ' ';
	say(manager, text, -1);
}

static void on_extend(uv_timer_t *timer)
{
	manager_extend(timer->data, EXTEND_BY_MS);
}

/* While something goes on that has deadlines of its own, the manager's do not matter, as long
 * as the loop turns. */
static void extend_while(struct manager *manager, bool goes_on)
{
	if (goes_on && manager->notify.fd >= 0)
		(void)uv_timer_start(&manager->extend, on_extend, EXTEND_EVERY_MS, EXTEND_EVERY_MS);
	else
		(void)uv_timer_stop(&manager->extend);
}

void manager_ready(struct manager *manager, const char *status)
{
	extend_while(manager, false);
	say_state(manager, "READY=1", status);
}

void manager_reloading(struct manager *manager, const char *status)
{
	char state[80];

	/* The time tells this reload's READY=1 from an earlier one (Type=notify-reload). */
	snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)sg_now_us());
	say_state(manager, state, status);
	extend_while(manager, true);
}

void manager_status(struct manager *manager, const char *status)
{
	size_t len = manager->queue_len;

	/* The one before is not news any more. */
	if (len > 0 && strncmp(queued(manager, len - 1)->text, "STATUS=", 7) == 0)
		manager->queue_len--;
	say_state(manager, "", status != NULL ? status : "");
}

void manager_stopping(struct manager *manager, const char *status)
{
	say_state(manager, "STOPPING=1", status);
	extend_while(manager, true);
}

void manager_extend(struct manager *manager, int64_t ms)
{
	char text[80];

	snprintf(text, sizeof(text), "EXTEND_TIMEOUT_USEC=%lld", (long long)ms * 1000);
	say(manager, text, -1);
}

void manager_give_up(struct manager *manager)
{
	extend_while(manager, false);
}

/* The store. */

static bool is_held(const struct manager *manager, int fd)
{
	struct stat file;

	if (fstat(fd, &file) < 0)
		return false;
	for (size_t i = 0; i < manager->passed_len; i++)
		if (manager->passed[i].dev == file.st_dev && manager->passed[i].ino == file.st_ino)
			return true;
	return false;
}

/* What a name there may not have, a colon above all, goes as "%3A". */
static int escape(char *escaped, const char *name)
{
	size_t len = 0;

	for (; *name != '\0'; name++) {
		unsigned char c = (unsigned char)*name;
		bool plain = c > ' ' && c < 127 && c != ':' && c != '%';

		if (len + (plain ? 1 : 3) > ESCAPED_MAX)
			return -ENAMETOOLONG;
		len += (size_t)snprintf(escaped + len, 4, plain ? "%c" : "%%%02X", c);
	}
	escaped[len] = '\0';
	return 0;
}

static void unescape(char *name, const char *escaped)
{
	for (; *escaped != '\0'; escaped++) {
		if (escaped[0] == '%' && isxdigit((unsigned char)escaped[1]) &&
		    isxdigit((unsigned char)escaped[2])) {
			const char digits[] = { escaped[1], escaped[2], '\0' };

			*name++ = (char)strtoul(digits, NULL, 16);
			escaped += 2;
		} else {
			*name++ = *escaped;
		}
	}
	*name = '\0';
}

int manager_store(struct manager *manager, const char *name, int fd)
{
	char text[TEXT_MAX], escaped[ESCAPED_MAX + 1];
	int r = escape(escaped, name);

	if (r < 0 || is_held(manager, fd))
		return r;
	/* A listener is never ready for an error, and the manager need not watch it. */
	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=" STORED "%s\nFDPOLL=0", escaped);
	say(manager, text, fd);
	return 0;
}

void manager_unstore(struct manager *manager, const char *name)
{
	char text[TEXT_MAX], escaped[ESCAPED_MAX + 1];

	if (escape(escaped, name) < 0)
		return;
	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=" STORED "%s", escaped);
	say(manager, text, -1);
}

/* The watchdog. */

static void on_watchdog(uv_timer_t *timer)
{
	struct manager *manager = timer->data;

	/* While the manager does not read, the messages that wait say as much. */
	if (manager->queue_len == 0)
		say(manager, "WATCHDOG=1", -1);
}

static void watchdog_start(struct manager *manager)
{
	uint64_t ms = (uint64_t)manager->notify.watchdog_us / 2000;

	if (manager->notify.watchdog_us > 0)
		(void)uv_timer_start(&manager->watchdog, on_watchdog, 0, ms > 0 ? ms : 1);
}

/* What was passed. */

static void describe(struct passed *passed, const char *name, int fd)
{
	const char *bare =
		strncmp(name, STORED, strlen(STORED)) == 0 ? name + strlen(STORED) : name;
	struct stat file = { 0 };

	(void)fstat(fd, &file);
	*passed = (struct passed){ .socket = { .fd = fd, .stored = bare != name },
		                   .dev = file.st_dev,
		                   .ino = file.st_ino };
	if (passed->socket.stored)
		unescape(passed->socket.name, bare);
	else
		snprintf(passed->socket.name, sizeof(passed->socket.name), "%s", bare);
}

/* What a socket unit passes as well is the unit's: the stored one is let go. */
static void drop_doubles(struct manager *manager)
{
	for (size_t i = 0; i < manager->passed_len; i++) {
		struct passed *stored = &manager->passed[i];

		for (size_t j = 0; j < manager->passed_len; j++) {
			const struct passed *other = &manager->passed[j];

			if (i == j || other->taken || stored->taken || !stored->socket.stored ||
			    other->dev != stored->dev || other->ino != stored->ino)
				continue;
			stored->socket.fd = sg_fd_close(stored->socket.fd);
			stored->taken = true;
			manager_unstore(manager, stored->socket.name);
		}
	}
}

static bool is_socket(int fd)
{
	struct stat file;

	return fstat(fd, &file) == 0 && S_ISSOCK(file.st_mode);
}

static int take_passed(struct manager *manager, const struct sg_listenfds *listenfds, char *reason,
                       size_t reason_size)
{
	if (listenfds->count == 0)
		return 0;
	/* Before anything is touched: with a wrong count it may be another's. */
	for (size_t i = 0; i < listenfds->count; i++) {
		if (is_socket(SG_LISTENFDS_START + (int)i))
			continue;
		snprintf(reason, reason_size,
		         "descriptor %zu of LISTEN_FDS=%zu is no socket; mend who sets it",
		         SG_LISTENFDS_START + i, listenfds->count);
		return -EINVAL;
	}
	manager->passed = calloc(listenfds->count, sizeof(*manager->passed));
	if (manager->passed == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < listenfds->count; i++) {
		int fd = SG_LISTENFDS_START + (int)i;

		(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
		(void)sg_fd_set_cloexec(fd, 1);
		describe(&manager->passed[manager->passed_len++], listenfds->names[i], fd);
	}
	drop_doubles(manager);
	return 0;
}

static int read_passed(struct manager *manager, char *reason, size_t reason_size)
{
	struct sg_listenfds *listenfds = calloc(1, sizeof(*listenfds));
	int r;

	if (listenfds == NULL)
		return -ENOMEM;
	r = sg_listenfds_parse(listenfds, getenv("LISTEN_PID"), getenv("LISTEN_FDS"),
	                       getenv("LISTEN_FDNAMES"), getpid(), reason, reason_size);
	if (r == 0)
		r = take_passed(manager, listenfds, reason, reason_size);
	free(listenfds);
	return r;
}

bool manager_take_socket(struct manager *manager, struct manager_socket *ret_socket)
{
	while (manager->passed_next < manager->passed_len) {
		struct passed *passed = &manager->passed[manager->passed_next++];

		if (passed->taken)
			continue;
		passed->taken = true;
		*ret_socket = passed->socket;
		return true;
	}
	return false;
}

/* Opening and closing. */

static bool is_number(const char *name)
{
	const char *value = getenv(name);
	size_t len = value != NULL ? strlen(value) : 1;

	return len > 0 && len < 19 && (value == NULL || strspn(value, "0123456789") == len);
}

static int read_notify(struct manager *manager, char *reason, size_t reason_size)
{
	const char *path = getenv("NOTIFY_SOCKET");
	int r;

	if (!is_number("WATCHDOG_USEC") || !is_number("WATCHDOG_PID")) {
		snprintf(reason, reason_size,
		         "WATCHDOG_USEC='%.40s' and WATCHDOG_PID='%.40s' have to be numbers",
		         getenv("WATCHDOG_USEC") != NULL ? getenv("WATCHDOG_USEC") : "",
		         getenv("WATCHDOG_PID") != NULL ? getenv("WATCHDOG_PID") : "");
		return -EINVAL;
	}
	r = sg_notify_open(&manager->notify);
	if (r == -EINVAL) {
		snprintf(reason, reason_size,
		         "NOTIFY_SOCKET='%.100s' is neither a path nor an @name", path);
		return r;
	}
	/* The service can do without its manager. */
	if (r < 0)
		log_say("warning", NULL, "NOTIFY_SOCKET='%.100s' cannot be reached: %s", path,
		        strerror(-r));
	return 0;
}

static void clean_environment(void)
{
	static const char *const names[] = {
		"NOTIFY_SOCKET",  "WATCHDOG_USEC",  "WATCHDOG_PID",     "LISTEN_PID", "LISTEN_FDS",
		"LISTEN_FDNAMES", "LISTEN_PIDFDID", "SYSTEMD_EXEC_PID", "FDSTORE",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		(void)unsetenv(names[i]);
}

static void on_closed(uv_handle_t *handle)
{
	struct manager *manager = handle->data;

	if (--manager->handles > 0)
		return;
	sg_notify_close(&manager->notify);
	free(manager->passed);
	free(manager);
}

void manager_close(struct manager *manager)
{
	if (manager == NULL)
		return;
	for (size_t i = 0; i < manager->passed_len; i++)
		if (!manager->passed[i].taken)
			sg_fd_close(manager->passed[i].socket.fd);
	while (manager->queue_len > 0)
		forget_first(manager);
	if (manager->notify.fd >= 0)
		uv_close((uv_handle_t *)&manager->room, on_closed);
	uv_close((uv_handle_t *)&manager->watchdog, on_closed);
	uv_close((uv_handle_t *)&manager->extend, on_closed);
}

static void handles_open(struct manager *manager, uv_loop_t *loop)
{
	manager->watchdog.data = manager->extend.data = manager->room.data = manager;
	manager->handles = 2;
	(void)uv_timer_init(loop, &manager->watchdog);
	(void)uv_timer_init(loop, &manager->extend);
	uv_unref((uv_handle_t *)&manager->watchdog);
	uv_unref((uv_handle_t *)&manager->extend);
	if (manager->notify.fd < 0)
		return;
	if (uv_poll_init(loop, &manager->room, manager->notify.fd) < 0) {
		sg_notify_close(&manager->notify);
		return;
	}
	manager->handles++;
	uv_unref((uv_handle_t *)&manager->room);
}

int manager_open(struct manager **ret_manager, uv_loop_t *loop, char *reason, size_t reason_size)
{
	struct manager *manager = calloc(1, sizeof(*manager));
	int r;

	if (manager == NULL)
		return -ENOMEM;
	manager->notify.fd = -1;
	r = read_notify(manager, reason, reason_size);
	handles_open(manager, loop);
	if (r == 0)
		r = read_passed(manager, reason, reason_size);
	clean_environment();
	if (r < 0) {
		manager_close(manager);
		return r;
	}
	watchdog_start(manager);
	extend_while(manager, true);
	*ret_manager = manager;
	return 0;
}
