/* SPDX-License-Identifier: MIT */
/*
 * The listeners: held for ever, so that clients wait in the queue while no worker accepts.
 *
 * Those of --listen and of the service manager go to every worker by LISTEN_FDS. Those that a
 * program binds itself come up its channel before it is ready, and go to every later worker
 * down its own, with the address they were configured with; by way of the service manager's store
 * also to those of the next supervisor.
 */
#include "core/fd.h"
#include "segue/log.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define REBIND_MS     100
#define REBIND_MAX_MS 10000

static struct held *add(struct service *service)
{
	struct held *held = calloc(1, sizeof(*held)), **last = &service->held;

	if (held == NULL)
		return NULL;
	held->fd = -1;
	while (*last != NULL)
		last = &(*last)->next;
	*last = held;
	return held;
}

static const char *path_of(const struct held *held)
{
	return strncmp(held->address, "unix://", 7) == 0 ? held->address + 7 : NULL;
}

/* NULL: the supervisor's own. */
static const struct sg_identity *user_of(const struct held *held)
{
	return held->terms != NULL ? held->terms->as : NULL;
}

static void close_it(struct service *service, struct held *held)
{
	struct held **at = &service->held;

	while (*at != held)
		at = &(*at)->next;
	*at = held->next;
	if (held->ours && path_of(held) != NULL && identity_put_on(user_of(held))) {
		sg_listener_unlink(path_of(held), held->file);
		identity_take_off(user_of(held));
	}
	sg_fd_close(held->fd);
	held->fd = -1;
}

/*
 * Those that workers have bound: the manager keeps them over the end of a supervisor, under the
 * words by which a program asks for them. A path goes with its worker, and nobody would find the
 * socket.
 */
static void stored_name(char *name, size_t size, const struct held *held)
{
	bool named = strcmp(held->name, held->address) != 0;

	snprintf(name, size, "%s%s%s", named ? held->name : "", named ? "=" : "", held->address);
}

static void keep_stored(struct service *service, struct held *held)
{
	char name[SG_NAME_MAX + SG_ADDRESS_MAX + 2];

	if (held->stored || (path_of(held) != NULL && path_of(held)[0] != '@'))
		return;
	stored_name(name, sizeof(name), held);
	held->stored = true;
	if (manager_store(service->manager, name, held->fd) < 0)
		log_say("warning", NULL,
		        "listener %s is not stored by the service manager: its address is too long",
		        held->name);
}

static void let_go_stored(struct service *service, struct held *held)
{
	char name[SG_NAME_MAX + SG_ADDRESS_MAX + 2];

	if (!held->stored)
		return;
	stored_name(name, sizeof(name), held);
	held->stored = false;
	manager_unstore(service->manager, name);
}

static void held_free(struct held *held)
{
	terms_unref(held->terms);
	free(held);
}

static void drop(struct service *service, struct held *held)
{
	let_go_stored(service, held);
	close_it(service, held);
	held_free(held);
}

size_t held_count(const struct service *service, bool own)
{
	size_t count = 0;

	for (const struct held *held = service->held; held != NULL; held = held->next)
		count += held->own == own;
	return count;
}

/* A name that LISTEN_FDNAMES can carry: one that was given, else its place. */
static void name_it(struct held *held, const char *name, size_t place)
{
	if (sg_name_valid(name))
		snprintf(held->name, sizeof(held->name), "%s", name);
	else
		snprintf(held->name, sizeof(held->name), "listener-%zu", place);
}

static bool same_socket(int fd, const struct sg_address *address)
{
	char reason[REASON_MAX];

	return sg_listener_verify(fd, address, reason, sizeof(reason)) == 0;
}

/* By its name, but that a stored one is of an earlier configuration, or else by its address. That
 * one has to be of this network too; a socket unit may pass what it likes. */
static struct manager_socket *socket_for(struct manager_socket *sockets, size_t count,
                                         const char *name, const struct sg_address *address)
{
	for (size_t i = 0; i < count; i++)
		if (sockets[i].fd >= 0 && !sockets[i].stored && strcmp(sockets[i].name, name) == 0)
			return &sockets[i];
	for (size_t i = 0; i < count; i++)
		if (sockets[i].fd >= 0 && same_socket(sockets[i].fd, address) &&
		    !(sockets[i].stored && sg_listener_is_elsewhere(sockets[i].fd)))
			return &sockets[i];
	return NULL;
}

static int full(char *reason, size_t size)
{
	snprintf(reason, size,
	         "more than %d listeners: those of --listen and those that the service manager "
	         "passes (LISTEN_FDS) together; pass fewer",
	         SG_WIRE_LISTENERS);
	return -E2BIG;
}

/* The workers' user has to be able to connect to what it serves. */
static int bind_fresh(struct service *service, const struct sg_address *address, struct held *held,
                      char *reason, size_t size)
{
	const struct sg_identity *as = service->terms->as;
	const char *mode = service->config->listen_mode;
	struct sg_bind_options bind = { .mode = mode != NULL ? (unsigned int)strtoul(mode, NULL, 8)
		                                             : 0 };
	char owner[24], group[24];

	if (as != NULL) {
		snprintf(owner, sizeof(owner), "%lu", (unsigned long)as->uid);
		snprintf(group, sizeof(group), "%lu", (unsigned long)as->gid);
		bind.owner = owner;
		bind.group = group;
	}
	held->fd = sg_listener_bind(address, &bind, &held->file, reason, size);
	held->ours = held->fd >= 0 && address->kind == SG_ADDRESS_UNIX;
	return held->fd < 0 ? held->fd : 0;
}

static int open_one(struct service *service, const char *spec, size_t place,
                    struct manager_socket *sockets, size_t count, char *reason, size_t size)
{
	struct manager_socket *passed;
	struct held *held = add(service);
	struct sg_address address;
	char name[SG_NAME_MAX + 1];
	int r;

	if (held == NULL)
		return -ENOMEM;
	if (held_count(service, false) + held_count(service, true) > SG_WIRE_LISTENERS)
		return full(reason, size);
	r = sg_address_parse_spec(name, &address, spec, reason, size);
	if (r < 0)
		return r;
	name_it(held, name, place);
	held->own = true;
	snprintf(held->address, sizeof(held->address), "%s", address.text);
	passed = socket_for(sockets, count, held->name, &address);
	if (passed != NULL) {
		r = sg_listener_verify(passed->fd, &address, reason, size);
		if (r < 0)
			return r;
		held->fd = passed->fd;
		passed->fd = -1;
		/* The path of a socket unit's listener is the manager's. */
		held->ours = passed->stored && address.kind == SG_ADDRESS_UNIX;
		if (held->ours)
			held->file = sg_listener_file(held->address + strlen("unix://"));
	} else {
		r = bind_fresh(service, &address, held, reason, size);
	}
	return r;
}

/* What an earlier supervisor stored and no --listen speaks of any more, or not in this network. */
static void let_go(struct service *service, const struct manager_socket *passed)
{
	log_say("dropped", NULL, "listener %s comes from the service manager's store, and %s",
	        passed->name,
	        sg_listener_is_elsewhere(passed->fd)
	                ? "is refused: it belongs to another network namespace"
	                : "is not wanted any more");
	manager_unstore(service->manager, passed->name);
}

/* The address could not be bound: what an earlier supervisor stored and overlaps it is not in the
 * way of the next start. (The service manager has it till it reads that.) */
static void make_way(struct service *service, const char *spec, struct manager_socket *sockets,
                     size_t count)
{
	char name[SG_NAME_MAX + 1], text[SG_ADDRESS_MAX], reason[REASON_MAX];
	struct sg_address address, other;

	if (sg_address_parse_spec(name, &address, spec, reason, sizeof(reason)) < 0)
		return;
	for (size_t i = 0; i < count; i++)
		if (sockets[i].fd >= 0 && sockets[i].stored &&
		    sg_listener_text(sockets[i].fd, text, sizeof(text)) == 0 &&
		    sg_address_parse(&other, text, reason, sizeof(reason)) == 0 &&
		    sg_address_overlaps(&address, false, &other,
		                        sg_listener_is_v6only(sockets[i].fd)))
			let_go(service, &sockets[i]);
}

/* A worker of an earlier supervisor bound it: true where generation 1 can ask for it. */
static bool take_stored(struct service *service, struct manager_socket *passed)
{
	char name[SG_NAME_MAX + 1], reason[REASON_MAX];
	struct sg_address address;
	struct held *held;

	/* Those of --listen have a bare name. */
	if (sg_name_valid(passed->name) || sg_listener_is_elsewhere(passed->fd) ||
	    sg_address_parse_spec(name, &address, passed->name, reason, sizeof(reason)) < 0 ||
	    sg_listener_verify(passed->fd, &address, reason, sizeof(reason)) < 0 ||
	    held_count(service, false) >= SG_WIRE_LISTENERS)
		return false;
	held = add(service);
	if (held == NULL)
		return false;
	snprintf(held->name, sizeof(held->name), "%s", name);
	snprintf(held->address, sizeof(held->address), "%s", address.text);
	held->fd = sg_fd_steal(&passed->fd);
	held->stored = true;
	return true;
}

/* A socket that no --listen speaks of is the service's all the same: it was passed. */
static int adopt(struct service *service, struct manager_socket *passed, size_t place, char *reason,
                 size_t size)
{
	struct held *held;
	int r = sg_listener_is_socket(passed->fd, reason, size);

	if (r < 0)
		return r;
	if (held_count(service, true) >= SG_WIRE_LISTENERS)
		return full(reason, size);
	held = add(service);
	if (held == NULL)
		return -ENOMEM;
	name_it(held, passed->name, place);
	held->own = true;
	(void)sg_listener_text(passed->fd, held->address, sizeof(held->address));
	held->fd = passed->fd;
	passed->fd = -1;
	return 0;
}

/* The settings know of --listen alone (see config.c), not of what the service manager passes. */
int held_check_ready(const struct service *service, const struct config *config, char *reason,
                     size_t reason_size)
{
	const struct held *held = service->held;
	size_t count = held_count(service, true);

	if (config->ready != CONFIG_READY_FD || (size_t)config->ready_fd >= 3 + count)
		return 0;
	for (int number = 3; held != NULL && (!held->own || number++ < config->ready_fd);)
		held = held->next;
	snprintf(reason, reason_size,
	         "--ready %s: descriptor %d is the listener %s; use fd:%zu or more",
	         config->ready_text, config->ready_fd, held != NULL ? held->name : "", 3 + count);
	return -EINVAL;
}

int held_open(struct service *service, char *reason, size_t reason_size)
{
	struct manager_socket *sockets = calloc(SG_WIRE_LISTENERS, sizeof(*sockets));
	size_t count = 0, place = 0;
	int r = 0;

	if (sockets == NULL)
		return -ENOMEM;
	while (count < SG_WIRE_LISTENERS && manager_take_socket(service->manager, &sockets[count]))
		count++;
	for (; r == 0 && place < service->config->listen_len; place++)
		r = open_one(service, service->config->listen[place], place, sockets, count, reason,
		             reason_size);
	if (r == -EADDRINUSE)
		make_way(service, service->config->listen[place - 1], sockets, count);
	for (size_t i = 0; i < count; i++) {
		if (r < 0 || sockets[i].fd < 0)
			continue;
		if (!sockets[i].stored)
			r = adopt(service, &sockets[i], place++, reason, reason_size);
		else if (!take_stored(service, &sockets[i]))
			let_go(service, &sockets[i]);
	}
	for (size_t i = 0; i < count; i++)
		sg_fd_close(sockets[i].fd);
	free(sockets);
	for (struct held *held = service->held; r == 0 && held != NULL; held = held->next)
		if (held->own)
			(void)manager_store(service->manager, held->name, held->fd);
	if (r == 0)
		r = held_check_ready(service, service->config, reason, reason_size);
	return r;
}

/* No generation before this one is left that could want them back. */
static void forget_closed(struct service *service, uint64_t oldest)
{
	struct held **at = &service->closed;

	while (*at != NULL) {
		struct held *held = *at;

		if (held->closed_by > oldest) {
			at = &held->next;
			continue;
		}
		*at = held->next;
		held_free(held);
	}
}

/* What is stored stays there, so that clients wait while the manager restarts the service; at a
 * stop it lets go by itself. Not where the path goes, and nobody would find the socket. */
void held_close(struct service *service)
{
	struct held *held;

	while ((held = service->held) != NULL) {
		if (held->own && held->ours && held->fd >= 0)
			manager_unstore(service->manager, held->name);
		close_it(service, held);
		held_free(held);
	}
	forget_closed(service, UINT64_MAX);
	held_forget_unbound(service);
}

/*
 * A worker's word about a file is checked: its path is unlinked later, as the worker's user. The
 * socket says itself where it is bound (see sg_listener_verify()), the file has to be the one
 * that the worker means, and its user's.
 */
static bool made_the_path(const struct worker *worker, const struct held *held,
                          const struct sg_message *message)
{
	const struct sg_identity *as = worker->slot->generation->terms->as;
	struct stat st;

	if (!(message->flags & SG_LISTENER_OURS) || path_of(held) == NULL)
		return false;
	if (lstat(path_of(held), &st) < 0 || !S_ISSOCK(st.st_mode) || st.st_ino == 0)
		return false;
	return st.st_dev == message->dev && st.st_ino == message->ino &&
	       (as == NULL || st.st_uid == as->uid);
}

static void refuse_take(const struct worker *worker, const char *name, const char *why, int fd)
{
	log_say("warning", NULL, "listener %s of worker %llu:%u is not kept: %s", name,
	        (unsigned long long)worker->slot->generation->number, worker->slot->index, why);
	sg_fd_close(fd);
}

/* A listener that a worker has bound itself. */
void held_take(struct service *service, struct worker *worker, const struct sg_message *message,
               int fd)
{
	struct terms *terms = worker->slot->generation->terms;
	struct held *held = NULL;
	struct sg_address address;
	char reason[REASON_MAX];
	int r = sg_address_parse(&address, message->text, reason, sizeof(reason));

	if (r == 0)
		r = sg_listener_verify(fd, &address, reason, sizeof(reason));
	if (r < 0) {
		refuse_take(worker, message->name, reason, fd);
		return;
	}
	if (sg_listener_is_elsewhere(fd)) {
		refuse_take(worker, message->name,
		            "it belongs to another network namespace than the supervisor's, where "
		            "no other worker could take it over",
		            fd);
		return;
	}
	if (held_count(service, false) < SG_WIRE_LISTENERS)
		held = add(service);
	if (held == NULL) {
		refuse_take(worker, message->name, "there are too many", fd);
		return;
	}
	snprintf(held->name, sizeof(held->name), "%.255s", message->name);
	snprintf(held->address, sizeof(held->address), "%s", address.text);
	held->fd = fd;
	held->ours = made_the_path(worker, held, message);
	if (held->ours)
		held->file = (struct sg_file_id){ message->dev, message->ino };
	held->terms = terms_ref(terms);
	held->generation = worker->slot->generation->number;
	held->wanted = true;
	if (worker->slot->generation->committed)
		keep_stored(service, held);
}

/* Which of the offered ones the worker asked for: one worker's wish is enough. */
void held_wanted(struct service *service, struct worker *worker, const struct sg_message *ready)
{
	struct generation *generation = worker->slot->generation;
	uint32_t place = 0;

	if (generation->committed)
		return;
	for (struct held *held = service->held; held != NULL; held = held->next) {
		if (held->own)
			continue;
		if (!generation->tells_wanted && held->generation != generation->number)
			held->wanted = false;
		if (place < ready->count && ready->wanted[place])
			held->wanted = true;
		place++;
	}
	generation->tells_wanted = true;
}

static void offer_one(struct worker *worker, const struct held *held)
{
	struct sg_message message = { .type = SG_MESSAGE_LISTENER,
		                      .flags = held->ours ? SG_LISTENER_OURS : 0,
		                      .dev = held->file.dev,
		                      .ino = held->file.ino };

	snprintf(message.name, sizeof(message.name), "%s", held->name);
	snprintf(message.text, sizeof(message.text), "%s", held->address);
	(void)link_send(worker->link, &message, &held->fd, 1);
}

void held_offer(struct service *service, struct worker *worker)
{
	struct sg_message offered = { .type = SG_MESSAGE_OFFERED };

	for (struct held *held = service->held; held != NULL; held = held->next) {
		if (held->own)
			continue;
		offer_one(worker, held);
		offered.count++;
	}
	(void)link_send(worker->link, &offered, NULL, 0);
}

static void tell_dropped(struct service *service, const struct generation *generation,
                         const char *bound)
{
	struct sg_message dropped = { .type = SG_MESSAGE_DROPPED };

	snprintf(dropped.text, sizeof(dropped.text), "%s", bound);
	for (struct generation *g = service->generations; g != NULL; g = g->next)
		for (unsigned int i = 0; g != generation && i < g->slots_len; i++) {
			struct worker *worker = g->slots[i].worker;

			if (worker_lives(worker) && link_speaks(worker->link))
				(void)link_send(worker->link, &dropped, NULL, 0);
		}
}

static void commit_to(struct service *service, struct generation *generation, struct held *held)
{
	if (held->terms == NULL)
		held->terms = terms_ref(generation->terms);
	keep_stored(service, held);
}

/*
 * At the commit what the new generation does not want is let go, and its predecessors empty it:
 * while somebody holds it the kernel would go on queueing clients. What it was is kept: the
 * new generation may fail while they are still there.
 */
void held_commit(struct service *service, struct generation *generation)
{
	struct held *next;

	held_forget_unbound(service);
	forget_closed(service, service->generations->number);
	for (struct held *held = service->held; held != NULL; held = next) {
		struct stat st;

		next = held->next;
		if (held->own)
			continue;
		if (generation->tells_wanted && held->wanted) {
			commit_to(service, generation, held);
			continue;
		}
		held->closed_by = generation->number;
		held->bound[0] = '\0';
		(void)sg_listener_text(held->fd, held->bound, sizeof(held->bound));
		held->bind = (struct sg_bind_options){ .v6only = sg_listener_is_v6only(held->fd) };
		if (path_of(held) != NULL && stat(path_of(held), &st) == 0)
			held->bind.mode = st.st_mode & 0777;
		let_go_stored(service, held);
		/* First: who hears of it may count on it. */
		close_it(service, held);
		if (held->bound[0] != '\0')
			tell_dropped(service, generation, held->bound);
		log_say("dropped", NULL, "listener %s (%s) is not wanted any more", held->name,
		        held->address);
		held->next = service->closed;
		service->closed = held;
	}
}

static void append(struct service *service, struct held *held)
{
	struct held **last = &service->held;

	held->next = NULL;
	while (*last != NULL)
		last = &(*last)->next;
	*last = held;
	keep_stored(service, held);
}

/* 0, or -errno with a sentence. */
static int open_again(struct held *held, char *reason, size_t size)
{
	struct sg_address address;
	int r = -EADDRNOTAVAIL;

	snprintf(reason, size, "its address is not known");
	if (sg_address_parse(&address, held->bound, reason, size) == 0 &&
	    identity_put_on(user_of(held))) {
		r = sg_listener_bind(&address, &held->bind, &held->file, reason, size);
		identity_take_off(user_of(held));
	}
	if (r < 0)
		return r;
	held->fd = r;
	held->ours = path_of(held) != NULL;
	held->wanted = true;
	held->unbound_said = false;
	return 0;
}

static void give_back(struct generation *generation, const struct held *held)
{
	for (unsigned int i = 0; i < generation->slots_len; i++) {
		struct worker *worker = generation->slots[i].worker;

		if (worker_lives(worker) && link_speaks(worker->link))
			offer_one(worker, held);
	}
}

/* Later ones may have bound what nobody else is to have. */
static void drop_younger(struct held **list, uint64_t generation)
{
	struct held **at = list, *held;

	while ((held = *at) != NULL) {
		if (held->generation <= generation) {
			at = &held->next;
			continue;
		}
		*at = held->next;
		held_free(held);
	}
}

/* Once each time that it is lost. */
static void say_unbound(struct held *held, const char *reason)
{
	if (held->unbound_said)
		return;
	held->unbound_said = true;
	log_say("warning", NULL, "listener %s could not be bound again: %s; it is tried again",
	        held->name, reason);
}

static void rebind(uv_timer_t *timer);

/* Twice as long each time, for as long as the generation serves. */
static void rebind_later(struct service *service)
{
	int64_t ms = REBIND_MS;

	for (unsigned int i = 0; i < service->rebind_tries && ms < REBIND_MAX_MS; i++)
		ms *= 2;
	uv_update_time(service->loop);
	(void)uv_timer_start(&service->rebind, rebind,
	                     (uint64_t)(ms < REBIND_MAX_MS ? ms : REBIND_MAX_MS), 0);
}

static void rebind(uv_timer_t *timer)
{
	struct service *service = timer->data;
	struct held **at = &service->unbound, *held;
	char reason[REASON_MAX];

	service->rebind_tries++;
	while ((held = *at) != NULL) {
		if (open_again(held, reason, sizeof(reason)) < 0) {
			say_unbound(held, reason);
			at = &held->next;
			continue;
		}
		*at = held->next;
		append(service, held);
		log_say("rebound", NULL, "listener %s (%s) is bound again", held->name,
		        held->bound);
		give_back(service->serving, held);
	}
	if (service->unbound != NULL)
		rebind_later(service);
}

/* Nobody wants them any more. */
void held_forget_unbound(struct service *service)
{
	struct held *held;

	(void)uv_timer_stop(&service->rebind);
	while ((held = service->unbound) != NULL) {
		service->unbound = held->next;
		held_free(held);
	}
}

static void take_back(struct service *service, struct generation *generation, struct held *held)
{
	char reason[REASON_MAX];
	int r = open_again(held, reason, sizeof(reason));

	if (r == 0) {
		append(service, held);
		give_back(generation, held);
		return;
	}
	/* Its own worker may be closing it only now. */
	if (r != -EADDRINUSE)
		say_unbound(held, reason);
	held->next = service->unbound;
	service->unbound = held;
	service->rebind_tries = 0;
	rebind_later(service);
}

/* An earlier generation serves again: with the listeners that it had, and no others. */
void held_resume(struct service *service, struct generation *generation)
{
	struct held **at = &service->closed, *held, *next;

	drop_younger(&service->unbound, generation->number);
	/* What has been offered to one that starts keeps its place. */
	for (held = service->held; held != NULL && service->starting == NULL; held = next) {
		next = held->next;
		if (!held->own && held->generation > generation->number)
			drop(service, held);
	}
	while ((held = *at) != NULL) {
		if (held->closed_by <= generation->number) {
			at = &held->next;
			continue;
		}
		*at = held->next;
		take_back(service, generation, held);
	}
}

/* A generation that never served takes what it had bound with it. 0: what an earlier supervisor has
 * stored, and nobody has asked for yet. */
void held_forget(struct service *service, uint64_t generation)
{
	struct held *next;

	for (struct held *held = service->held; held != NULL; held = next) {
		next = held->next;
		if (!held->own && held->generation == generation)
			drop(service, held);
	}
}
