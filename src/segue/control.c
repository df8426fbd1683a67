/* SPDX-License-Identifier: MIT */
/*
 * The control socket. A client is heard, answered, ended, and freed when its handles are closed;
 * until then its pointer is good, whoever still holds it, and does nothing any more.
 *
 * Everything here is bounded: clients, the time for a request, its length, and what is kept for
 * a client that does not read. Nothing here waits, but for the lock at start.
 */
#include "segue/control.h"
#include "core/fd.h"
#include "core/listener.h"
#include "segue/paths.h"
#include "segue/printable.h"
#include "segue/request.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS_MAX   128
#define REQUEST_MAX   (64 * 1024UL)
#define OUTPUT_MAX    (1024 * 1024UL)
#define ACCEPTS_MAX   32    /* at a time, so that a flood does not stop the loop */
#define REQUEST_MS    10000 /* for saying the request, and for reading the end */
#define ALIVE_MS      2000  /* of silence */
#define PAUSE_MS      200   /* when no descriptor is left */
#define LOCK_MS       5000  /* for another supervisor's start in the same folder */
#define LOCK_RETRY_MS 20

enum stage {
	STAGE_HEARING, /* the request is not complete */
	STAGE_WAITING, /* a verb was called, control_end() has not been */
	STAGE_ENDING,  /* the last line is being written */
	STAGE_DEAD,    /* its handles are being closed */
};

struct control_client {
	struct control *control;
	struct control_client *next, **at;
	uv_poll_t poll;
	uv_timer_t timer; /* HEARING, ENDING: the deadline; WAITING: the next "alive" */
	unsigned int handles;
	int fd;
	enum stage stage;
	enum request_verb verb;
	bool owed_gone;  /* gone() is to be called */
	bool half_ended; /* the client says no more, and reads */
	char *input;
	size_t input_len, input_size;
	char *output;
	size_t output_len, output_size;
};

/* Freed when its own handles are closed and the last client is freed. */
struct control {
	uv_loop_t *loop;
	const struct control_verbs *verbs;
	void *ctx;
	char path[PATHS_MAX];
	struct sg_file_id file;
	int fd;
	int spare; /* given up for a client when no descriptor is left; -1: in use */
	uv_poll_t poll;
	uv_timer_t pause;
	unsigned int handles;
	bool closing;
	struct control_client *clients; /* the dead too, until they are freed */
	unsigned int count;             /* of those that are not dead */
};

static void control_release(struct control *control)
{
	if (control->closing && control->handles == 0 && control->clients == NULL)
		free(control);
}

json_t *control_text(const char *text)
{
	json_t *string;
	char *copy;

	if (text == NULL)
		return json_null();
	string = json_string(text);
	if (string != NULL)
		return string;
	copy = strdup(text);
	if (copy == NULL)
		return json_null();
	printable_make(copy, strlen(copy), true);
	string = json_string(copy);
	free(copy);
	return string != NULL ? string : json_null();
}

/* The last line as text, for free(); extra is consumed. NULL: no memory. */
static char *end_line(enum control_exit code, const char *message, json_t *extra_take)
{
	json_t *end = json_object();
	char *line;

	json_object_set_new(end, "end", json_true());
	json_object_set_new(end, "exit", json_integer(code));
	json_object_set_new(end, "message", control_text(message));
	if (extra_take != NULL)
		json_object_update_missing(end, extra_take);
	json_decref(extra_take);
	line = json_dumps(end, JSON_COMPACT);
	json_decref(end);
	return line;
}

/* A client's life. */

static void on_client_closed(uv_handle_t *handle)
{
	struct control_client *client = handle->data;
	struct control *control = client->control;

	if (--client->handles > 0)
		return;
	*client->at = client->next;
	if (client->next != NULL)
		client->next->at = client->at;
	if (client->owed_gone)
		control->verbs->gone(control->ctx, client);
	free(client->input);
	free(client->output);
	free(client);
	control_release(control);
}

static void listen_again(struct control *control);

static void destroy(struct control_client *client)
{
	if (client->stage == STAGE_DEAD)
		return;
	client->owed_gone = client->stage == STAGE_WAITING;
	client->stage = STAGE_DEAD;
	client->control->count--;
	uv_close((uv_handle_t *)&client->poll, on_client_closed);
	uv_close((uv_handle_t *)&client->timer, on_client_closed);
	client->fd = sg_fd_close(client->fd);
	listen_again(client->control);
}

static void on_client_poll(uv_poll_t *poll, int status, int events);

static void watch(struct control_client *client)
{
	bool reads = client->stage <= STAGE_WAITING && !client->half_ended;
	int events = (reads ? UV_READABLE : 0) | (client->output_len > 0 ? UV_WRITABLE : 0);

	if (client->stage == STAGE_DEAD)
		return;
	if (events == 0)
		uv_poll_stop(&client->poll);
	else if (uv_poll_start(&client->poll, events, on_client_poll) < 0)
		destroy(client);
}

/* Writes what the socket takes; ends a client that is gone, or has got its last line. */
static void flush(struct control_client *client)
{
	while (client->stage != STAGE_DEAD && client->output_len > 0) {
		ssize_t n = send(client->fd, client->output, client->output_len,
		                 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			destroy(client);
		if (n < 0)
			break;
		client->output_len -= (size_t)n;
		memmove(client->output, client->output + n, client->output_len);
	}
	if (client->stage == STAGE_ENDING && client->output_len == 0)
		destroy(client);
	watch(client);
}

static int make_room(char **buffer, size_t *size, size_t needed, size_t max)
{
	size_t wanted = *size > 0 ? *size : 1024;
	char *larger;

	if (needed <= *size)
		return 0;
	if (needed > max)
		return -ENOBUFS;
	while (wanted < needed)
		wanted *= 2;
	larger = realloc(*buffer, wanted);
	if (larger == NULL)
		return -ENOMEM;
	*buffer = larger;
	*size = wanted;
	return 0;
}

/* Frees the line. A client that has left a MiB unread gets no more. */
static void say_take(struct control_client *client, char *line_take)
{
	size_t len = line_take != NULL ? strlen(line_take) : 0;

	if (line_take == NULL || make_room(&client->output, &client->output_size,
	                                   client->output_len + len + 1, OUTPUT_MAX) < 0) {
		destroy(client);
	} else {
		memcpy(client->output + client->output_len, line_take, len);
		client->output[client->output_len + len] = '\n';
		client->output_len += len + 1;
		flush(client);
	}
	free(line_take);
}

static void on_timer(uv_timer_t *timer)
{
	struct control_client *client = timer->data;

	if (client->stage == STAGE_HEARING)
		control_end(client, EXIT_USAGE, "no request came within 10 s",
		            json_pack("{s:s}", "outcome", "nonsense"));
	else if (client->stage == STAGE_ENDING)
		destroy(client);
	else if (client->output_len == 0)
		say_take(client, strdup("{\"event\":\"alive\"}"));
}

void control_event(struct control_client *client, json_t *event_take)
{
	char *line = client->stage == STAGE_WAITING ? json_dumps(event_take, JSON_COMPACT) : NULL;

	/* Without memory it is not told on the way, and is how it ended. */
	if (line != NULL) {
		uv_timer_again(&client->timer);
		say_take(client, line);
	}
	json_decref(event_take);
}

void control_end(struct control_client *client, enum control_exit code, const char *message,
                 json_t *extra_take)
{
	char *line = end_line(code, message, extra_take);

	client->owed_gone = false;
	if (client->stage > STAGE_WAITING) {
		free(line);
		return;
	}
	client->stage = STAGE_ENDING;
	uv_timer_start(&client->timer, on_timer, REQUEST_MS, 0);
	say_take(client, line);
}

/* What a client says. */

static void refuse(struct control_client *client, const char *reason)
{
	control_end(client, EXIT_USAGE, reason, json_pack("{s:s}", "outcome", "nonsense"));
}

static void call(struct control_client *client, const struct request *request)
{
	const struct control_verbs *verbs = client->control->verbs;
	void *ctx = client->control->ctx;

	switch (request->verb) {
	case REQUEST_NONE:
		break;
	case REQUEST_UPGRADE:
		verbs->upgrade(ctx, client, request->argv, request->wait);
		break;
	case REQUEST_STATUS:
		verbs->status(ctx, client);
		break;
	case REQUEST_STOP:
		verbs->stop(ctx, client, request->now);
		break;
	case REQUEST_CUT:
		verbs->cut(ctx, client);
		break;
	case REQUEST_RESTART:
		verbs->restart(ctx, client, request->worker);
		break;
	case REQUEST_KILL:
		verbs->kill(ctx, client, request->signal);
		break;
	}
}

static void ask(struct control_client *client, size_t len)
{
	char reason[REQUEST_REASON_MAX];
	struct request request;

	if (request_read(&request, client->input, len, reason) < 0) {
		refuse(client, reason);
		return;
	}
	client->stage = STAGE_WAITING;
	client->verb = request.verb;
	uv_timer_start(&client->timer, on_timer, ALIVE_MS, ALIVE_MS);
	call(client, &request);
	request_done(&request);
}

static void hear(struct control_client *client)
{
	char *newline;
	ssize_t n;

	if (make_room(&client->input, &client->input_size, client->input_len + 1, REQUEST_MAX) <
	    0) {
		refuse(client, "the request is longer than 64 KiB");
		return;
	}
	n = recv(client->fd, client->input + client->input_len,
	         client->input_size - client->input_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0 || (n == 0 && client->input_len == 0)) {
		destroy(client);
		return;
	}
	if (n == 0) {
		refuse(client, "the request ends in the middle of its line");
		return;
	}
	newline = memchr(client->input + client->input_len, '\n', (size_t)n);
	client->input_len += (size_t)n;
	if (newline == NULL)
		return;
	if (newline + 1 != client->input + client->input_len)
		refuse(client, "something follows the request; a second one needs a connection "
		               "of its own");
	else
		ask(client, (size_t)(newline - client->input));
}

/* The client has said its request: what comes now is its end, or nonsense. */
static void listen_for_end(struct control_client *client)
{
	struct pollfd ended = { .fd = client->fd };
	char byte;
	ssize_t n = recv(client->fd, &byte, 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* One that has ended its own direction only can still read ("echo ... | socat"). */
	if (n == 0 && poll(&ended, 1, 0) == 0)
		client->half_ended = true;
	else
		destroy(client);
}

static void on_client_poll(uv_poll_t *poll, int status, int events)
{
	struct control_client *client = poll->data;

	if (status < 0) {
		destroy(client);
		return;
	}
	if (events & UV_READABLE) {
		if (client->stage == STAGE_HEARING)
			hear(client);
		else if (client->stage == STAGE_WAITING)
			listen_for_end(client);
	}
	if (events & UV_WRITABLE)
		flush(client);
	watch(client);
}

/* New clients. */

/* Who may not, or came too late, is told so as far as its socket takes it. */
static void turn_away_take(int fd_take, enum control_exit code, const char *outcome,
                           const char *message)
{
	char *line = end_line(code, message, json_pack("{s:s}", "outcome", outcome));
	size_t len = line != NULL ? strlen(line) : 0;

	if (line != NULL) {
		line[len] = '\n'; /* in place of its end, which is not sent */
		if (send(fd_take, line, len + 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
			/* It does not listen; nothing is owed to it. */
		}
	}
	free(line);
	sg_fd_close(fd_take);
}

static bool may(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

static struct control_client *client_new(struct control *control, int fd)
{
	struct control_client *client = calloc(1, sizeof(*client));

	if (client == NULL)
		return NULL;
	client->control = control;
	client->fd = fd;
	client->poll.data = client->timer.data = client;
	if (uv_poll_init(control->loop, &client->poll, fd) < 0) {
		free(client);
		return NULL;
	}
	uv_timer_init(control->loop, &client->timer);
	client->handles = 2;
	client->next = control->clients;
	client->at = &control->clients;
	if (client->next != NULL)
		client->next->at = &client->next;
	control->clients = client;
	control->count++;
	return client;
}

static void welcome_take(struct control *control, int fd_take)
{
	struct control_client *client;
	char message[256];

	if (!may(fd_take)) {
		snprintf(message, sizeof(message),
		         "only user %u, whose service this is, and root may do that", geteuid());
		turn_away_take(fd_take, EXIT_FORBIDDEN, "forbidden", message);
		return;
	}
	if (control->count >= CLIENTS_MAX) {
		snprintf(message, sizeof(message),
		         "%d clients are connected to the supervisor already; try again later",
		         CLIENTS_MAX);
		turn_away_take(fd_take, EXIT_REFUSED, "refused", message);
		return;
	}
	client = client_new(control, fd_take);
	if (client == NULL) {
		turn_away_take(fd_take, EXIT_REFUSED, "refused", "the supervisor has no memory");
		return;
	}
	uv_timer_start(&client->timer, on_timer, REQUEST_MS, 0);
	watch(client);
}

static void on_listener(uv_poll_t *poll, int status, int events);

/* After a client has gone, or the pause: there may be a descriptor again. */
static void listen_again(struct control *control)
{
	if (control->closing)
		return;
	if (control->spare < 0)
		control->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uv_timer_stop(&control->pause);
	if (uv_poll_start(&control->poll, UV_READABLE, on_listener) < 0)
		return;
}

static void on_pause(uv_timer_t *timer)
{
	listen_again(timer->data);
}

/*
 * A service that is short of descriptors must still say so: the spare one makes room for a
 * client. When that is used up too, clients wait in the queue.
 */
static bool use_spare(struct control *control)
{
	if (control->spare >= 0) {
		control->spare = sg_fd_close(control->spare);
		return true;
	}
	uv_poll_stop(&control->poll);
	uv_timer_start(&control->pause, on_pause, PAUSE_MS, 0);
	return false;
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
	struct control *control = poll->data;

	(void)status;
	(void)events;
	for (int i = 0; i < ACCEPTS_MAX && !control->closing; i++) {
		int fd = accept4(control->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			fd = sg_fd_above_stdio_take(fd);
		else
			fd = -errno;
		if (fd >= 0)
			welcome_take(control, fd);
		else if (fd == -EAGAIN ||
		         (fd != -EINTR && fd != -ECONNABORTED && !use_spare(control)))
			return;
	}
}

/* The socket. */

/*
 * Two supervisors that start at the same time must not both find the path stale: the folder is
 * locked meanwhile. Waits for at most LOCK_MS, since this is before the loop.
 */
static int lock_folder(const char *path, char *reason, size_t reason_size)
{
	char folder[PATHS_MAX];
	const char *slash = strrchr(path, '/');
	int64_t deadline = sg_now_ms() + LOCK_MS;
	int fd;

	snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		int error = errno;

		snprintf(reason, reason_size, "control socket %s: folder %s: %s", path, folder,
		         strerror(error));
		return -error;
	}
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (sg_now_ms() >= deadline) {
			snprintf(reason, reason_size, "control socket %s: folder %s is locked",
			         path, folder);
			sg_fd_close(fd);
			return -EBUSY;
		}
		poll(NULL, 0, LOCK_RETRY_MS);
	}
	return fd;
}

static int bind_path(struct control *control, const char *path, char *reason, size_t reason_size)
{
	struct sg_address address = { .kind = SG_ADDRESS_UNIX, .family = AF_UNIX };
	struct sg_bind_options options = { .mode = 0600 };
	SG_CLEANUP(sg_fd_cleanup) int lock = -1;
	int fd;

	strcpy(control->path, path);
	strcpy(address.path, path);
	snprintf(address.text, sizeof(address.text), "control socket %s", path);
	lock = lock_folder(path, reason, reason_size);
	if (lock < 0)
		return lock;
	fd = sg_listener_bind(&address, &options, &control->file, reason, reason_size);
	if (fd == -EADDRINUSE)
		snprintf(reason, reason_size,
		         "control socket %s: a supervisor answers there already; choose another "
		         "name (see --name)",
		         path);
	return fd;
}

int control_open(struct control **ret_control, uv_loop_t *loop, const char *path,
                 const struct control_verbs *verbs, void *ctx, char *reason, size_t reason_size)
{
	struct control *control = calloc(1, sizeof(*control));
	int r;

	if (control == NULL)
		return -ENOMEM;
	control->loop = loop;
	control->verbs = verbs;
	control->ctx = ctx;
	control->spare = -1;
	control->fd = bind_path(control, path, reason, reason_size);
	if (control->fd < 0) {
		r = control->fd;
		free(control);
		return r;
	}
	r = uv_poll_init(loop, &control->poll, control->fd);
	if (r < 0) {
		snprintf(reason, reason_size, "control socket %s: %s", path, uv_strerror(r));
		sg_listener_unlink(control->path, control->file);
		sg_fd_close(control->fd);
		free(control);
		return r;
	}
	uv_timer_init(loop, &control->pause);
	control->handles = 2;
	control->poll.data = control->pause.data = control;
	listen_again(control);
	*ret_control = control;
	return 0;
}

static void on_control_closed(uv_handle_t *handle)
{
	struct control *control = handle->data;

	control->handles--;
	control_release(control);
}

static void say_farewell(struct control_client *client)
{
	if (client->verb == REQUEST_STOP)
		control_end(client, EXIT_DONE, "the service has stopped",
		            json_pack("{s:s}", "outcome", "stopped"));
	else
		control_end(client, EXIT_LOST, "the supervisor ends: the service was stopped",
		            json_pack("{s:s}", "outcome", "lost"));
}

void control_close(struct control *control)
{
	if (control == NULL)
		return;
	sg_listener_unlink(control->path, control->file);
	control->closing = true;
	uv_close((uv_handle_t *)&control->poll, on_control_closed);
	uv_close((uv_handle_t *)&control->pause, on_control_closed);
	control->fd = sg_fd_close(control->fd);
	control->spare = sg_fd_close(control->spare);
	/* The clients stay in the list until their handles are closed, by the loop. */
	for (struct control_client *client = control->clients; client != NULL;
	     client = client->next) {
		if (client->stage <= STAGE_WAITING)
			say_farewell(client);
		destroy(client);
		client->owed_gone = false;
	}
}
