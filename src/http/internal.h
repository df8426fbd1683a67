/* SPDX-License-Identifier: MIT */
/*
 * What the files of the HTTP module share.
 *
 * Who touches what: a connection, and a request's side of it, belong to the thread of their
 * loop; the handle and the server's own state belong to the thread of segue_http_run(), which is
 * also that of loop 0. Whatever crosses from thread to thread is a message in a loop's queue, or an
 * atomic. A connection on its way to the successor belongs to the thread of the handle until
 * the verdict has come back as a message.
 */
#ifndef SGH_INTERNAL_H
#define SGH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <uv.h>

#include <segue/http.h>

#include "chunk.h"
#include "guard.h"
#include "record.h"
#include "route.h"
#include "timer.h"

/* What one read takes; also the room for the unread bytes of the connection that runs. */
#define SGH_INPUT_BYTES 131072
/* Responses of one turn of a connection that leave in one write. */
#define SGH_CORK_BYTES 32768
/* The unread bytes with which a connection can still travel. */
#define SGH_TRAVEL_MAX (SEGUE_CONNECTION_MAX - SGH_RECORD_BYTES)

struct sgh_loop;
struct sgh_connection;

/* Runs on the thread of the loop that it is posted to, in the order of posting, and frees itself.
 */
struct sgh_message {
	struct sgh_message *next;
	void (*run)(struct sgh_loop *loop, struct sgh_message *message);
	bool embedded; /* does not free itself */
};

struct sgh_peer {
	uint16_t family; /* 0: not known */
	uint16_t port;
	unsigned char address[16];
};

/* Bytes that have been read and not used, of a connection that does not run. */
struct sgh_input {
	uint32_t at, end, room;
	struct sgh_guard guard; /* how far the head has been looked at */
	char data[];
};

/* Bytes that the kernel has not taken. */
struct sgh_output {
	size_t at, end, room;
	uint64_t since_ms; /* when they began to wait, less what was waited before */
	uint64_t sent;     /* of the response so far */
	char data[];
};

struct sgh_connection {
	struct sgh_loop *loop;
	struct sgh_connection *next, **prev; /* of the loop's */
	struct sgh_connection *runnable;     /* the next that is to run */
	struct segue_http_request *req;      /* in flight, or NULL */
	struct sgh_input *in;
	void *passing; /* the message of the one that travels */
	struct sgh_output *out;
	struct sgh_timer timer; /* may stand too early: deadline_ms decides */
	uint64_t deadline_ms;   /* 0: none */
	uint64_t since_ms;
	uint32_t requests;
	int fd;
	uint32_t discarded; /* while lingering */
	struct sgh_peer peer;
	unsigned int can_read : 1; /* until read() says EAGAIN */
	unsigned int can_write : 1;
	unsigned int peer_closed : 1; /* its sending side; what it sent can still be read */
	unsigned int reset : 1;
	unsigned int eof : 1;       /* and it has all been read */
	unsigned int in_head : 1;   /* the deadline is that of the head */
	unsigned int closing : 1;   /* after what has still to be written */
	unsigned int close_now : 1; /* without waiting for the client's end-of-file */
	unsigned int lingering : 1;
	unsigned int dead : 1;   /* to be closed at once */
	unsigned int killed : 1; /* has been; waits for its release */
	unsigned int is_runnable : 1;
	unsigned int kept : 1;    /* the successor did not take it */
	unsigned int moving : 1;  /* belongs to the thread of the handle */
	unsigned int watched : 1; /* in the loop's epoll set */
};

/* Small allocations of one request, released together. */
struct sgh_block {
	struct sgh_block *next;
	char data[];
};

struct sgh_after;

struct sgh_text_field {
	const char *name, *value;
};

enum sgh_body {
	SGH_BODY_DONE,  /* there is none, or it has been read */
	SGH_BODY_WAITS, /* nobody has said who takes it */
	SGH_BODY_WHOLE,
	SGH_BODY_PIECES,
	SGH_BODY_DISCARD,
};

struct segue_http_request {
	struct sgh_loop *loop;
	struct sgh_connection *conn;     /* NULL: the client has gone */
	struct segue_http_request *next; /* in the free list, or in the pool's queue */
	const struct sgh_route *route;

	/* What it says. */
	const char *method, *path, *query;
	size_t method_len, path_len, query_len;
	struct sgh_text_field *fields;
	struct sgh_text_field *query_parts; /* made by the first segue_http_query() */
	struct sgh_text_field *params;
	uint32_t field_count, query_count, param_count;
	char *body_data;
	size_t body_len, body_room;

	/* How the body comes. */
	enum sgh_body body;
	struct sgh_chunk chunk;
	uint64_t left;                 /* of a body with a length */
	uint64_t body_since_ms, rated; /* the rate's clock, and the bytes since */
	uint64_t received;
	void (*take)(struct segue_http_request *req, const void *data, size_t len, void *ctx);
	void *take_ctx;

	struct sgh_peer peer;

	/* The answer, the program's side. */
	char *extra; /* fields, as they are sent */
	size_t extra_len, extra_room;
	int64_t promised; /* bytes that are still to come; -1: not known */
	bool begun;
	bool want_close;

	/* The answer, the loop's side. */
	int status;
	uint64_t sent;
	uint64_t waited_ms; /* of the time in which bytes waited for the client */
	void (*writable)(struct segue_http_request *req, void *ctx);
	void *writable_ctx;
	void (*disconnected)(struct segue_http_request *req, bool reset, void *ctx);
	void *disconnected_ctx;
	struct sgh_after *afters;
	bool hurried; /* a wait has ended early */
	uint64_t since_ms;
	unsigned int guards; /* calls into the program; the request outlives them */
	uint8_t minor;
	bool is_head;
	bool chunked_body;
	bool expects_continue;
	bool handed; /* to the program, which has to answer it */
	bool paused;
	bool client_closes; /* after this answer, the client said */
	bool head_sent;
	bool chunked_answer;
	bool closes; /* the answer said Connection: close, or has no other end */
	bool ended;
	bool wants_writable;
	bool answered; /* on this loop, but what other threads have posted comes first */

	/* Both sides. */
	atomic_uint posted_calls; /* what is called on the loop waits its turn behind them */
	atomic_bool gone;
	atomic_bool threaded; /* written to from another thread */
	size_t posted;        /* bytes in messages; under the loop's lock */
	size_t waiting;       /* bytes that the kernel has not taken; under the loop's lock */

	struct sgh_message last; /* when there is no memory for another */
	const char *target;      /* as it came, for the access log; or NULL */
	struct sgh_block *blocks;
	char *room, *room_end;
	char inline_room[1024];
};

struct sgh_listener {
	int fd;
	bool polled;
};

/* Written by the loop, read by the server. */
struct sgh_counters {
	atomic_ulong in_flight;
	atomic_ulong answered;
	atomic_ulong moved;
	atomic_ulong cut_requests;
	atomic_ulong cut_idle;
};

struct sgh_loop {
	struct segue_http_server *server;
	unsigned int index;
	pthread_t thread;
	bool has_thread;

	uv_loop_t uv;
	uv_async_t async;
	uv_poll_t poll; /* of epoll_fd, in which all connections are */
	uv_timer_t timer;
	uv_idle_t idle; /* runs while a connection has more to do at once */
	uv_prepare_t prepare;
	int epoll_fd;

	pthread_mutex_t lock; /* messages, and the bytes that other threads wait for */
	pthread_cond_t written;
	struct sgh_message *first, **last;
	bool closed; /* takes no more messages */

	struct sgh_connection *connections;
	struct sgh_connection *runnable, **runnable_last;
	struct sgh_connection *graveyard;
	struct segue_http_request *spare_requests;
	unsigned int spare_count;
	struct sgh_timers timers;
	struct sgh_timer accept_timer;
	struct sgh_timer *timer_set;

	struct sgh_listener *listeners;
	size_t listener_count;
	bool accepting;
	bool draining;
	bool successor; /* there is one, while draining */
	bool cutting;
	bool stopping;

	/* The connection that runs. */
	struct sgh_connection *current;
	char *input;
	uint32_t input_at, input_end, input_room;
	struct sgh_guard guard;
	char *scratch;
	char *cork;
	size_t cork_len;

	time_t date_second;
	char date[40];
	struct sgh_counters counters;

	char *access;
	size_t access_len;
	time_t access_second;
	char access_time[40];
};

struct sgh_pool;
struct sgh_option;

struct sgh_own_option {
	struct sgh_own_option *next;
	const char *name, *argument, *help;
	int (*apply)(void *ctx, const char *value, char *reason, size_t reason_size);
	void *ctx;
};

/* A listener that the successor does not want, on its way from loop to loop. */
struct sgh_drop {
	struct sgh_message message;
	const char *name;
	unsigned int loop; /* whose turn it is */
	bool under_way;
};

struct segue_http_server {
	struct segue_http_options options;
	struct sgh_route *routes;
	struct sgh_own_option *own_options;
	char route_error[160];
	const char **listen; /* of the command line */
	size_t listen_room;
	const char **check_arguments;

	struct segue *segue;
	atomic_ullong generation;
	int *listener_fds;      /* the handle's, -1: dropped; on its thread only */
	char **listener_names;  /* of each */
	struct sgh_drop *drops; /* of each */
	unsigned int drops_under_way;
	bool resume_waits; /* for those */
	size_t listener_count;
	struct sgh_loop *loops;
	unsigned int loop_count;
	unsigned int next_loop;
	struct sgh_pool *pool;

	uv_poll_t segue_poll;
	uv_signal_t reopen_signal;
	uv_timer_t report_timer; /* for a supervisor: how many connections there are */

	atomic_ulong connections; /* of all loops, and on their way between them */
	atomic_ulong held;        /* requests of the program whose client has gone */
	uint32_t connections_max;
	atomic_bool leaving; /* whoever takes the last connection away has to say so */
	bool draining;
	bool cutting;
	bool committed; /* to a successor: the service may come back */
	bool gone;
	unsigned int orders; /* to the loops, about the drain, that are not yet carried out */
	char *spare_orders;  /* for where there is no memory; see events.c */
	unsigned int spares;
	struct sgh_message check; /* that somebody looks whether anything is left */
	atomic_bool check_posted;
	bool watching; /* the handle, on loop 0 */
	int exit_code;
	bool abandoned; /* a handler still blocks: what it may touch stays */
	struct segue_http_counts at_drain;
	struct segue_http_counts drained; /* what the last drain has come to */

	char *log_path; /* of standard error, where it is a file */
	bool log_is_file;
	int access_fd;
	bool access_is_file;
	atomic_ulong lines_lost; /* of both logs: nobody reads them */
};

/* The loop of the calling thread, or NULL. */
extern _Thread_local struct sgh_loop *sgh_this_loop;

/* loop.c */
int sgh_loop_open(struct sgh_loop *loop, struct segue_http_server *server, unsigned int index);
void sgh_loop_close(struct sgh_loop *loop);
int sgh_loop_start(struct sgh_loop *loop);
void sgh_loop_run(struct sgh_loop *loop);
void sgh_loop_join(struct sgh_loop *loop);
void sgh_loop_end(struct sgh_loop *loop);
void sgh_loop_settle(struct sgh_loop *loop);
void sgh_loop_post(struct sgh_loop *loop, struct sgh_message *message);
int sgh_loop_call(struct sgh_loop *loop, void (*function)(struct sgh_loop *loop));
uint64_t sgh_loop_now(struct sgh_loop *loop);
const char *sgh_loop_date(struct sgh_loop *loop);
static inline void sgh_count(atomic_ulong *counter, long by)
{
	/* One writer each: no locked instruction is needed. */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
	                      memory_order_relaxed);
}

/* listen.c */
void sgh_accept_begins(int fd);
int sgh_accept_prepare(struct sgh_loop *loop, size_t count); /* once, before it starts */
int sgh_accept_start(struct sgh_loop *loop, const int *fds, size_t count);
void sgh_accept_stop(struct sgh_loop *loop);
void sgh_accept_event(struct sgh_loop *loop, size_t index);
void sgh_accept_again(struct sgh_loop *loop);
bool sgh_accept_all(struct sgh_loop *loop, int fd);
void sgh_accept_timer(struct sgh_timer *timer);

/* connection.c */
struct sgh_connection *sgh_connection_new(struct sgh_loop *loop, int fd,
                                          const struct sgh_peer *peer);
void sgh_peer_set(struct sgh_peer *peer, const struct sockaddr_storage *address);
int sgh_connection_watch(struct sgh_connection *conn);
void sgh_connection_unwatch(struct sgh_connection *conn);
void sgh_connection_link(struct sgh_connection *conn);
void sgh_connection_unlink(struct sgh_connection *conn);
void sgh_connection_event(struct sgh_connection *conn, uint32_t events);
void sgh_connection_run(struct sgh_connection *conn);
void sgh_connection_wake(struct sgh_connection *conn);
void sgh_connection_kill(struct sgh_connection *conn);
void sgh_connection_free(struct sgh_connection *conn);
void sgh_connection_deadline(struct sgh_connection *conn, uint64_t deadline_ms);
bool sgh_connection_put_by(struct sgh_connection *conn);
void sgh_connection_idle(struct sgh_connection *conn);
void sgh_connection_refuse(struct sgh_connection *conn, int status, const char *error);
int sgh_connection_fill(struct sgh_connection *conn);
bool sgh_head_has_begun(const struct sgh_loop *loop);
bool sgh_connection_can_keep(const struct sgh_connection *conn);

/* output.c */
int sgh_output_write(struct sgh_connection *conn, const struct iovec *parts, int count);
bool sgh_output_flush(struct sgh_connection *conn);
size_t sgh_output_waiting(const struct sgh_connection *conn);

/* body.c */
bool sgh_body_step(struct sgh_connection *conn, struct segue_http_request *req);
void sgh_body_late(struct sgh_connection *conn, struct segue_http_request *req);
uint64_t sgh_rate_deadline(uint64_t since_ms, int64_t base_ms, uint64_t bytes, uint32_t rate);

/* request.c */
void sgh_request_begin(struct sgh_connection *conn, const char *head, size_t len);
void sgh_request_dispatch(struct segue_http_request *req);
void sgh_request_orphan(struct segue_http_request *req);
void sgh_request_free(struct segue_http_request *req);
void sgh_request_release(struct segue_http_request *req);
void *sgh_request_alloc(struct segue_http_request *req, size_t size);
int sgh_peer_text(const struct sgh_peer *peer, char *text, size_t size);
void sgh_requests_free_spare(struct sgh_loop *loop);

/* Has the program said its last word? Then nothing of it is called any more. */
static inline bool sgh_request_is_over(const struct segue_http_request *req)
{
	return req->ended || req->answered;
}

/* response.c */
void sgh_do_reply(struct segue_http_request *req, int status, const char *type, const char *data,
                  size_t len);
void sgh_do_begin(struct segue_http_request *req, int status, const char *type, int64_t length);
void sgh_do_write(struct segue_http_request *req, const char *data, size_t len);
void sgh_do_end(struct segue_http_request *req, int64_t missing);
void sgh_response_refuse(struct segue_http_request *req, int status, const char *error);
bool sgh_response_progress(struct segue_http_request *req);
void sgh_response_publish(struct segue_http_request *req);
void sgh_response_continue(struct segue_http_request *req);
void sgh_response_allow(struct segue_http_request *req, int status, const char *path,
                        size_t path_len);
void sgh_response_raw(struct sgh_connection *conn, int status, const char *error);
/* after.c */
struct sgh_after *sgh_after_new(struct segue_http_request *req,
                                void (*fn)(struct segue_http_request *req, void *ctx), void *ctx);
void sgh_after_start(struct sgh_after *after, int64_t ms);
void sgh_after_hurry(struct segue_http_request *req);
void sgh_after_free(struct segue_http_request *req);

/* move.c: a loop's side of a drain */
void sgh_drain_begin(struct sgh_loop *loop, bool successor);
void sgh_drain_end(struct sgh_loop *loop);
void sgh_drain_cut(struct sgh_loop *loop);
bool sgh_drain_leave(struct sgh_connection *conn);
void sgh_say_lost(struct segue_http_server *server);
int sgh_adopt(struct segue_http_server *server, int fd, const void *bytes, size_t len,
              const void *record, size_t record_len);
void sgh_verdict(struct sgh_connection *conn, bool taken);

/* server.c */
extern struct segue_http_server *sgh_abandoned;

/* events.c */
int sgh_events_begin(struct segue_http_server *server);
void sgh_events_end(struct segue_http_server *server);
void sgh_server_connection_gone(struct segue_http_server *server);
void sgh_server_request_released(struct segue_http_server *server);

/* pool.c */
int sgh_pool_new(struct sgh_pool **ret_pool, uint32_t threads, uint32_t queue);
int sgh_pool_submit(struct sgh_pool *pool, struct segue_http_request *req);
bool sgh_pool_free(struct sgh_pool *pool);

/* access.c */
int sgh_access_open(struct segue_http_server *server);
void sgh_access_reopen(struct segue_http_server *server);
void sgh_access_write(struct segue_http_request *req);
void sgh_access_refused(struct sgh_connection *conn, int status, uint64_t since_ms);
void sgh_access_flush(struct sgh_loop *loop);

/* options.c */
int sgh_options_parse(struct segue_http_server *server, int argc, char **argv, int *ret_exit_code);
int sgh_options_check(const struct segue_http_options *options, char *reason, size_t size);

#endif
