/* SPDX-License-Identifier: MIT */
/*
 * The program's listeners: handed out once by name, from the predecessor, from the service
 * manager, or bound.
 *
 * A listener is recognised by the address that it was configured with. One that nobody asks
 * for after all stays open, so that its queue is kept, until the generation serves; the
 * predecessor then empties and closes it.
 */
#include "libsegue/handle.h"
#include "core/fd.h"
#include "core/listenfds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct listener *add(struct segue *segue)
{
	struct listener *more;

	/* What was inherited and is not wanted counts apart from what is. */
	if (segue->listeners_len >= 3UL * SEGUE_LISTENERS_MAX)
		return NULL;
	more = reallocarray(segue->listeners, segue->listeners_len + 1, sizeof(*more));
	if (more == NULL)
		return NULL;
	segue->listeners = more;
	more += segue->listeners_len++;
	*more = (struct listener){ .fd = -1, .returned = -1, .adopted = -1, .offered = -1 };
	return more;
}

static struct listener *find(struct segue *segue, const char *name)
{
	for (size_t i = 0; i < segue->listeners_len; i++)
		if (segue->listeners[i].wanted && strcmp(segue->listeners[i].name, name) == 0)
			return &segue->listeners[i];
	return NULL;
}

/* Sockets from the service manager: descriptors 3 and up, as the variables say. */
int sg_listeners_from_manager(struct segue *segue)
{
	static const char *const variables[] = { "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
		                                 "LISTEN_PIDFDID" };
	struct sg_listenfds *listenfds = malloc(sizeof(*listenfds));
	char reason[SG_ERROR_MAX] = "";
	int r = -ENOMEM;

	if (listenfds != NULL)
		r = sg_listenfds_parse(listenfds, getenv("LISTEN_PID"), getenv("LISTEN_FDS"),
		                       getenv("LISTEN_FDNAMES"), getpid(), reason, sizeof(reason));
	for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
		unsetenv(variables[i]);
	for (size_t i = 0; r == 0 && i < listenfds->count; i++) {
		int fd = SG_LISTENFDS_START + (int)i, flags;
		struct listener *listener = add(segue);

		r = listener == NULL ? -ENOMEM : sg_listener_is_socket(fd, reason, sizeof(reason));
		if (r < 0)
			break;
		(void)sg_fd_set_cloexec(fd, 1);
		/* systemd's own sockets are non-blocking already; nobody shares this one yet. */
		flags = fcntl(fd, F_GETFL);
		if (flags >= 0 && !(flags & O_NONBLOCK))
			(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
		listener->fd = fd;
		listener->systemd = listener->passed = true;
		snprintf(listener->name, sizeof(listener->name), "%s", listenfds->names[i]);
	}
	free(listenfds);
	if (r < 0)
		return sg_fail(segue, r, "%s", reason[0] != '\0' ? reason : strerror(-r));
	return 0;
}

int sg_listeners_adopt_take(struct segue *segue, const struct sg_message *message, int fd)
{
	char reason[SG_ERROR_MAX];
	struct sg_address address;
	int place = (int)segue->offers++;
	struct listener *listener;
	int r = sg_address_parse(&address, message->text, reason, sizeof(reason));

	if (r == 0)
		r = sg_listener_verify(fd, &address, reason, sizeof(reason));
	listener = r == 0 ? add(segue) : NULL;
	if (listener == NULL) {
		sg_fd_close(fd);
		return r < 0 ? r : -ENOMEM;
	}
	listener->fd = fd;
	listener->address = address;
	listener->adopted = place;
	listener->ours = message->flags & SG_LISTENER_OURS;
	listener->passed = message->flags & SG_LISTENER_PASSED;
	listener->bind.v6only = sg_listener_is_v6only(fd);
	listener->file = (struct sg_file_id){ message->dev, message->ino };
	snprintf(listener->name, sizeof(listener->name), "%.255s", message->name);
	return 0;
}

static bool same_place(const struct listener *listener, const struct sg_address *address)
{
	char reason[SG_ERROR_MAX];

	if (!listener->systemd)
		return strcmp(listener->address.text, address->text) == 0;
	return sg_listener_verify(listener->fd, address, reason, sizeof(reason)) == 0;
}

/* The inherited socket for a name and address: by both, else by the address (it was renamed). */
static struct listener *inherited(struct segue *segue, const char *name,
                                  const struct sg_address *address)
{
	struct listener *renamed = NULL;

	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		if (listener->wanted || listener->fd < 0 || !same_place(listener, address))
			continue;
		if (strcmp(listener->name, name) == 0)
			return listener;
		/* Several with port 0 are told apart by their names only. */
		if (renamed == NULL && (address->port != 0 || address->family == AF_UNIX))
			renamed = listener;
	}
	return renamed;
}

/* A socket which the service manager passed under this name, and which is another. */
static int contradicts(struct segue *segue, const char *name, const struct sg_address *address)
{
	char reason[SG_ERROR_MAX];

	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];
		int r;

		if (!listener->systemd || listener->wanted || strcmp(listener->name, name) != 0)
			continue;
		r = sg_listener_verify(listener->fd, address, reason, sizeof(reason));
		if (r < 0)
			return sg_fail(segue, -EINVAL,
			               "listener %s from the service manager: %s; mend the socket "
			               "unit or the address",
			               name, reason);
	}
	return 0;
}

static int check_overlap(struct segue *segue, const char *name, const struct sg_address *address,
                         bool v6only)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *other = &segue->listeners[i];

		if (!other->wanted && (other->systemd || other->fd < 0))
			continue;
		if (!sg_address_overlaps(&other->address, other->bind.v6only, address, v6only))
			continue;
		return sg_fail(segue, -EADDRINUSE,
		               other->wanted
		                       ? "listener %s (%s) overlaps listener %s (%s); one address "
		                         "can be served once"
		                       : "listener %s (%s) overlaps %s (%s), which the predecessor "
		                         "still holds; move to it by way of another port",
		               name, address->text, other->name, other->address.text);
	}
	return 0;
}

static int bind_fresh(struct segue *segue, const char *name, const struct sg_address *address,
                      const struct sg_bind_options *bind)
{
	char reason[SG_ERROR_MAX];
	struct listener *listener;
	struct sg_file_id file;
	int fd;

	fd = check_overlap(segue, name, address, bind->v6only);
	if (fd < 0)
		return fd;
	fd = sg_listener_bind(address, bind, &file, reason, sizeof(reason));
	/* The reason begins with the address, which may be the name. */
	if (fd < 0 && strcmp(name, address->text) == 0)
		return sg_fail(segue, fd, "listener %s", reason);
	if (fd < 0)
		return sg_fail(segue, fd, "listener %s: %s", name, reason);
	listener = add(segue);
	if (listener == NULL) {
		sg_listener_unlink(address->path, file);
		sg_fd_close(fd);
		return sg_fail(segue, -ENOMEM, "listener %s: no memory", name);
	}
	listener->fd = fd;
	listener->file = file;
	listener->ours = address->kind == SG_ADDRESS_UNIX;
	listener->address = *address;
	listener->wanted = true;
	listener->bind = *bind;
	snprintf(listener->name, sizeof(listener->name), "%s", name);
	return fd;
}

static size_t wanted_count(const struct segue *segue)
{
	size_t count = 0;

	for (size_t i = 0; i < segue->listeners_len; i++)
		count += segue->listeners[i].wanted;
	return count;
}

static int listen_parsed(struct segue *segue, const char *name, const struct sg_address *address,
                         const struct segue_listen_options *options)
{
	static const struct segue_listen_options defaults;
	struct sg_bind_options bind;
	struct listener *listener;
	char reason[SG_ERROR_MAX];
	int r;

	options = options != NULL ? options : &defaults;
	bind = (struct sg_bind_options){ .backlog = options->backlog,
		                         .v6only = options->v6only,
		                         .mode = options->mode,
		                         .owner = options->owner,
		                         .group = options->group,
		                         .reuseport = options->reuseport };
	if (segue->said_ready)
		return sg_fail(segue, -EBUSY, "listener %s: asked for after segue_ready()", name);
	if (find(segue, name) != NULL)
		return sg_fail(segue, -EALREADY,
		               "listener %s was asked for twice; give each its own name", name);
	if (wanted_count(segue) >= SEGUE_LISTENERS_MAX)
		return sg_fail(segue, -E2BIG, "listener %s: more than %d are asked for", name,
		               SEGUE_LISTENERS_MAX);
	listener = inherited(segue, name, address);
	if (listener == NULL) {
		r = contradicts(segue, name, address);
		return r < 0 ? r : bind_fresh(segue, name, address, &bind);
	}
	r = sg_listener_verify(listener->fd, address, reason, sizeof(reason));
	if (r < 0)
		return sg_fail(segue, -EINVAL, "inherited listener %s: %s", name, reason);
	listener->wanted = true;
	listener->address = *address;
	listener->bind = bind;
	snprintf(listener->name, sizeof(listener->name), "%s", name);
	return listener->fd;
}

static int listen_named(struct segue *segue, const char *name, const char *address,
                        const struct segue_listen_options *options)
{
	char reason[SG_ERROR_MAX], copy[SG_NAME_MAX + 1];
	struct sg_address parsed;
	int r = sg_address_parse(&parsed, address, reason, sizeof(reason));

	if (r < 0)
		return sg_fail(segue, r, "%s", reason);
	if (name != NULL && !sg_name_valid(name))
		return sg_fail(segue, -EINVAL,
		               "listener name '%.63s' is malformed; use 1 to 63 characters of "
		               "a-z, 0-9, _ and -",
		               name);
	/* segue_passed() gives out a name of the table, which is about to change. */
	snprintf(copy, sizeof(copy), "%s", name != NULL ? name : "");
	return listen_parsed(segue, name != NULL ? copy : parsed.text, &parsed, options);
}

static int listen_spec(struct segue *segue, const char *spec,
                       const struct segue_listen_options *options)
{
	char name[SG_NAME_MAX + 1], reason[SG_ERROR_MAX];
	struct sg_address address;
	int r = sg_address_parse_spec(name, &address, spec, reason, sizeof(reason));

	if (r < 0)
		return sg_fail(segue, r, "%s", reason);
	return listen_parsed(segue, name, &address, options);
}

int segue_listen(struct segue *segue, const char *name, const char *address,
                 const struct segue_listen_options *options)
{
	int r = listen_named(segue, name, address, options);

	segue->unfit = r < 0 ? -r : 0;
	return r;
}

int segue_listen_spec(struct segue *segue, const char *spec,
                      const struct segue_listen_options *options)
{
	int r = listen_spec(segue, spec, options);

	segue->unfit = r < 0 ? -r : 0;
	return r;
}

int segue_listener_fd(struct segue *segue, const char *name)
{
	struct listener *listener = find(segue, name);

	if (listener == NULL || listener->fd < 0)
		return sg_fail(segue, -ENOENT, "no listener %s", name);
	return listener->fd;
}

const char *segue_listener_name(struct segue *segue, int fd)
{
	for (size_t i = 0; i < segue->listeners_len; i++)
		if (segue->listeners[i].wanted && segue->listeners[i].fd == fd && fd >= 0)
			return segue->listeners[i].name;
	return NULL;
}

/* What a supervisor has given back meanwhile is the listener then. */
static void close_listener(struct listener *listener)
{
	sg_fd_close(listener->fd);
	listener->fd = listener->returned;
	listener->returned = -1;
}

/* It accepts, from what it has now: the application asks for the descriptors. */
static void say_listening(struct segue *segue)
{
	if (segue->state == SG_STATE_SERVING || segue->state == SG_STATE_CHECKING ||
	    segue->state == SG_STATE_UPGRADING || segue->state == SG_STATE_ABANDONING)
		sg_queue_simple(segue, SEGUE_EVENT_RESUME);
}

/*
 * The answer to LISTENER_DROPPED may come after the generation serves again. The listener stays
 * then; a supervisor has bound another one meanwhile, or does so when this one is closed.
 */
static int unlisten_late(struct segue *segue, struct listener *listener)
{
	listener->told = false;
	if (segue->supervised && (listener->returned >= 0 || !sg_supervised_alone(segue)))
		close_listener(listener);
	if (listener->fd >= 0)
		say_listening(segue);
	return sg_fail(segue, -ECANCELED,
	               "listener %s is wanted again: the generation that dropped it has failed",
	               listener->name);
}

int segue_unlisten(struct segue *segue, const char *name)
{
	struct listener *listener = find(segue, name);

	if (listener == NULL || listener->fd < 0)
		return sg_fail(segue, -ENOENT, "no listener %s", name);
	if (listener->told && !listener->dropped)
		return unlisten_late(segue, listener);
	listener->told = false;
	/* Nobody else wants the path of a listener that is closed for good; a supervisor knows
	 * better. */
	if (listener->ours && (!segue->supervised || sg_supervised_alone(segue)))
		sg_listener_unlink(listener->address.path, listener->file);
	close_listener(listener);
	/* What the successor dropped is bound again should it fail; the program's own wish stands.
	 */
	if (!listener->dropped)
		listener->wanted = false;
	return 0;
}

int segue_address_text(int fd, char *text, size_t size)
{
	return sg_listener_text(fd, text, size);
}

int segue_address_check(const char *spec, char *reason, size_t reason_size)
{
	char name[SG_NAME_MAX + 1];
	struct sg_address address;

	return sg_address_parse_spec(name, &address, spec, reason, reason_size);
}

/* One that nobody has asked for yet. */
static bool is_left(const struct listener *listener)
{
	return listener->passed && !listener->wanted && listener->fd >= 0;
}

/* Can segue_listen() be given this name, now and after those before it? "unknown" is what a
 * socket without a name is called: sd_listen_fds_with_names(3). */
static bool name_is_free(struct segue *segue, const struct listener *listener)
{
	if (!sg_name_valid(listener->name) || strcmp(listener->name, "unknown") == 0 ||
	    find(segue, listener->name) != NULL)
		return false;
	for (const struct listener *other = segue->listeners; other != listener; other++)
		if (is_left(other) && strcmp(other->name, listener->name) == 0)
			return false;
	return true;
}

int segue_passed(struct segue *segue, size_t index, const char **ret_name, char *text, size_t size)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];
		int r = 0;

		if (!is_left(listener) || index-- > 0)
			continue;
		if (listener->systemd)
			r = sg_listener_text(listener->fd, text, size);
		else if ((size_t)snprintf(text, size, "%s", listener->address.text) >= size)
			r = -ENOSPC;
		if (r < 0)
			return sg_fail(segue, r, "the address of passed socket %s: %s",
			               listener->name, strerror(-r));
		*ret_name = name_is_free(segue, listener) ? listener->name : NULL;
		return 0;
	}
	return sg_fail(segue, -ENOENT, "no other socket was passed");
}

static int send_listener(struct peer *peer, const struct listener *listener)
{
	struct sg_message message = { .type = SG_MESSAGE_LISTENER,
		                      .flags = (listener->ours ? SG_LISTENER_OURS : 0) |
		                               (listener->passed ? SG_LISTENER_PASSED : 0),
		                      .dev = listener->file.dev,
		                      .ino = listener->file.ino };

	snprintf(message.name, sizeof(message.name), "%s", listener->name);
	snprintf(message.text, sizeof(message.text), "%s", listener->address.text);
	return sg_peer_send(peer, &message, &listener->fd, 1);
}

/* The worker's side: what it has bound is the supervisor's from now on, to be kept for ever. */
void sg_listeners_pass_up(struct segue *segue, struct peer *peer)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		if (listener->wanted && listener->fd >= 0 && !listener->systemd &&
		    listener->adopted < 0)
			(void)send_listener(peer, listener);
	}
}

/* A listener that was dropped comes back from the supervisor: before its RESUME, or later, where
 * somebody else had its address. */
void sg_listeners_return_take(struct segue *segue, const struct sg_message *message, int fd)
{
	char reason[SG_ERROR_MAX];

	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		if (!listener->wanted || listener->returned >= 0 ||
		    (listener->fd >= 0 && !listener->told) ||
		    strcmp(listener->name, message->name) != 0 ||
		    sg_listener_verify(fd, &listener->address, reason, sizeof(reason)) < 0)
			continue;
		if (listener->fd >= 0) {
			listener->returned = fd;
			return;
		}
		listener->fd = fd;
		say_listening(segue);
		return;
	}
	sg_fd_close(fd);
}

/* The predecessor's side: everything that is open goes to the successor. */
void sg_listeners_offer(struct segue *segue, struct peer *peer)
{
	struct sg_message offered = { .type = SG_MESSAGE_OFFERED };

	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		listener->offered = -1;
		listener->dropped = false;
		if (listener->fd < 0 || !listener->wanted)
			continue;
		(void)send_listener(peer, listener);
		listener->offered = (int)offered.count++;
	}
	(void)sg_peer_send(peer, &offered, NULL, 0);
}

/* The successor's side: which of the offered ones it asked for. */
void sg_listeners_wanted(struct segue *segue, struct sg_message *ready)
{
	ready->count = segue->offers;
	for (size_t i = 0; i < segue->listeners_len; i++)
		if (segue->listeners[i].adopted >= 0 && segue->listeners[i].wanted)
			ready->wanted[segue->listeners[i].adopted] = 1;
}

/* The predecessor notes what the successor does not want. */
void sg_listeners_mark(struct segue *segue, const struct sg_message *ready)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		listener->dropped =
			listener->offered >= 0 && ((uint32_t)listener->offered >= ready->count ||
		                                   !ready->wanted[listener->offered]);
	}
}

static void say_dropped(struct segue *segue, struct listener *listener)
{
	struct queued *queued = sg_queued_new(segue, SEGUE_EVENT_LISTENER_DROPPED, listener->name);

	if (queued == NULL)
		return;
	queued->event.name = queued->reason;
	queued->event.reason = "";
	queued->event.fd = listener->fd;
	listener->told = true;
	sg_queue_push(segue, queued);
}

/*
 * At the commit: the application empties what nobody wants any more. Older generations hold
 * the socket as well, and as long as one of them does the kernel goes on queueing clients.
 */
void sg_listeners_drop(struct segue *segue)
{
	struct sg_message message = { .type = SG_MESSAGE_DROPPED };

	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		if (!listener->dropped || listener->fd < 0)
			continue;
		say_dropped(segue, listener);
		if (sg_listener_text(listener->fd, message.text, sizeof(message.text)) < 0)
			continue;
		for (struct peer *peer = segue->peers; peer != NULL; peer = peer->next)
			if (peer->role == PEER_PREDECESSOR)
				(void)sg_peer_send(peer, &message, NULL, 0);
	}
}

/* A younger generation says that the service has no such listener any more: by what the socket
 * is bound to, since several may have been configured with the same address and port 0. */
void sg_listeners_drop_address(struct segue *segue, const char *address)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];
		char text[SG_ADDRESS_MAX];

		if (listener->fd >= 0 && listener->wanted && !listener->dropped &&
		    sg_listener_text(listener->fd, text, sizeof(text)) == 0 &&
		    strcmp(text, address) == 0) {
			listener->dropped = true;
			say_dropped(segue, listener);
		}
	}
}

/* The successor serves and does not want these; the predecessor still holds and empties them. */
void sg_listeners_close_unwanted(struct segue *segue)
{
	for (size_t i = 0; i < segue->listeners_len; i++)
		if (!segue->listeners[i].wanted)
			close_listener(&segue->listeners[i]);
}

/* The service has been taken back: what was closed for the successor is bound again; a
 * supervisor has kept it, and has given it back before. */
void sg_listeners_rebind(struct segue *segue)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];
		char reason[SG_ERROR_MAX];
		int fd;

		listener->dropped = false;
		if (listener->fd >= 0 || !listener->wanted)
			continue;
		if (segue->supervised) {
			sg_queue_warning(segue, ENOENT,
			                 "listener %s was dropped and has not been given back",
			                 listener->name);
			continue;
		}
		fd = sg_listener_bind(&listener->address, &listener->bind, &listener->file, reason,
		                      sizeof(reason));
		if (fd < 0)
			sg_queue_warning(segue, fd, "listener %s could not be bound again: %s",
			                 listener->name, reason);
		else
			listener->fd = fd;
	}
}

int sg_listeners_check_claimed(struct segue *segue)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];
		char text[SG_ADDRESS_MAX] = "?";

		if (!listener->systemd || listener->wanted)
			continue;
		(void)sg_listener_text(listener->fd, text, sizeof(text));
		return sg_fail(segue, -EINVAL,
		               "the %s passed socket %s (%s), which no listener asks for; its "
		               "clients would hang: mend the %s or the addresses",
		               segue->supervised ? "supervisor" : "service manager", listener->name,
		               text, segue->supervised ? "supervisor's --listen" : "socket unit");
	}
	return 0;
}

/* A generation that never served removes the paths that it made: nobody else knows them. */
void sg_listeners_unbind(struct segue *segue)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		if (listener->ours && listener->adopted < 0 && listener->fd >= 0)
			sg_listener_unlink(listener->address.path, listener->file);
	}
}

void sg_listeners_done(struct segue *segue, bool unlink_paths)
{
	for (size_t i = 0; i < segue->listeners_len; i++) {
		struct listener *listener = &segue->listeners[i];

		if (unlink_paths && listener->ours && listener->fd >= 0)
			sg_listener_unlink(listener->address.path, listener->file);
		close_listener(listener);
		close_listener(listener);
	}
	free(segue->listeners);
	segue->listeners = NULL;
	segue->listeners_len = 0;
}
