/* SPDX-License-Identifier: MIT */
/*
 * What 'segue status' prints: the object of doc/control.md.
 */
#include "core/fd.h"
#include "segue/printable.h"
#include "segue/supervisor.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORD_MAX    1000          /* bytes of a word of a command line */
#define COMMAND_MAX (32 * 1024UL) /* after which words are left out */

json_t *status_number(int64_t value)
{
	return value < 0 ? json_null() : json_integer(value);
}

/* What the operator set, not what is added to it for a worker that keeps it itself. */
int64_t status_left_ms(const struct worker *worker)
{
	int64_t left = worker->deadline_ms - sg_now_ms();
	bool keeps = worker->state == WORKER_DRAINING || worker->state == WORKER_STOPPING;

	if (worker->deadline_ms < 0)
		return -1;
	if (worker->kind == KIND_SEGUE && keeps)
		left -= WORKER_MARGIN_MS;
	return left > 0 ? left : 0;
}

static json_t *time_text(time_t when)
{
	char text[40];
	struct tm tm;

	gmtime_r(&when, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

static json_t *text_or_null(const char *text)
{
	return control_text(text[0] != '\0' ? text : NULL);
}

static json_t *worker_status(const struct slot *slot, const struct worker *worker)
{
	static const char *const kinds[] = { "other", "notify", "segue" };
	int64_t now = sg_now_ms();
	json_t *out = json_object();

	json_object_set_new(out, "worker", json_integer((json_int_t)slot->index));
	json_object_set_new(out, "pid", worker ? json_integer(worker->process.pid) : json_null());
	json_object_set_new(out, "state",
	                    json_string(worker        ? table_worker_state_text(worker->state)
	                                : slot->timer ? "waiting"
	                                              : "gone"));
	json_object_set_new(out, "since",
	                    time_text(worker ? worker->since : slot->generation->since));
	json_object_set_new(
		out, "age_ms",
		json_integer(now - (worker ? worker->since_ms : slot->generation->since_ms)));
	json_object_set_new(out, "kind",
	                    json_string(!worker ? "unknown"
	                                : worker->kind == KIND_OTHER && !worker->was_ready
	                                        ? "unknown"
	                                        : kinds[worker->kind]));
	json_object_set_new(out, "connections",
	                    worker && worker->counts && !worker->aged
	                            ? json_integer((json_int_t)worker->connections)
	                            : json_null());
	json_object_set_new(out, "restarts", json_integer((json_int_t)slot->restarts));
	json_object_set_new(out, "status", worker ? text_or_null(worker->text) : json_null());
	json_object_set_new(out, "last_exit", text_or_null(slot->last_exit));
	json_object_set_new(
		out, "restart_ms",
		slot->timer ? json_integer(slot->restart_ms > now ? slot->restart_ms - now : 0)
			    : json_null());
	return out;
}

static const struct worker *first_worker(const struct generation *generation)
{
	const struct worker *first = NULL;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct worker *worker = generation->slots[i].worker;

		if (worker_lives(worker) && (first == NULL || worker->state < first->state))
			first = worker;
	}
	return first;
}

static json_t *file_status(struct image *image)
{
	char identity[IMAGE_IDENTITY_MAX];

	if (image == NULL)
		return json_null();
	image_identity(image, identity);
	return json_pack("{sosIss}", "path", text_or_null(image_path(image)), "size",
	                 (json_int_t)image_size(image), "identity", identity);
}

static json_t *program_status(const struct worker *worker)
{
	json_t *out;

	if (worker == NULL || worker->program.file == NULL)
		return json_null();
	out = file_status(worker->program.file);
	json_object_set_new(out, "script", json_boolean(worker->program.script != NULL));
	json_object_set_new(out, "script_file", file_status(worker->program.script));
	return out;
}

/* An answer is limited, a command line is not: what is long is cut, and ends with "...". */
static json_t *command_status(char *const *argv)
{
	json_t *out = json_array();
	size_t total = 0;

	for (; *argv != NULL; argv++) {
		char word[WORD_MAX + 4];
		size_t len = strlen(*argv);

		if (total >= COMMAND_MAX) {
			json_array_append_new(out, json_string("..."));
			break;
		}
		if (len > WORD_MAX) {
			len = printable_cut(*argv, WORD_MAX);
			snprintf(word, sizeof(word), "%.*s...", (int)len, *argv);
		}
		json_array_append_new(out, control_text(strlen(*argv) > len ? word : *argv));
		total += len + 1;
	}
	return out;
}

/* Whose state began when the generation's did; NULL: it has a time of its own. One that serves does
 * so since its commit, whichever of its workers took the place of another since. */
static const struct worker *began_with(const struct generation *generation,
                                       const struct worker *first)
{
	bool serves = first != NULL && first->state == WORKER_SERVING && !generation->retired;

	return serves ? NULL : first;
}

static json_t *generation_status(const struct generation *generation)
{
	const struct worker *first = first_worker(generation);
	const struct worker *began = began_with(generation, first);
	json_t *workers = json_array(), *out = json_object();
	bool waits = false;

	for (unsigned int i = 0; i < generation->slots_len; i++) {
		const struct slot *slot = &generation->slots[i];

		waits = waits || slot->timer != NULL;
		if (slot->worker != NULL || slot->timer != NULL || slot->limit)
			json_array_append_new(workers, worker_status(slot, slot->worker));
		if (slot->replacement != NULL)
			json_array_append_new(workers, worker_status(slot, slot->replacement));
		if (slot->leaving != NULL)
			json_array_append_new(workers, worker_status(slot, slot->leaving));
	}
	json_object_set_new(out, "number", json_integer((json_int_t)generation->number));
	json_object_set_new(out, "state",
	                    json_string(first   ? table_worker_state_text(first->state)
	                                : waits ? "waiting"
	                                        : "gone"));
	json_object_set_new(out, "since", time_text(began ? began->since : generation->since));
	json_object_set_new(
		out, "age_ms",
		json_integer(sg_now_ms() - (began ? began->since_ms : generation->since_ms)));
	json_object_set_new(out, "deadline_ms",
	                    first ? status_number(status_left_ms(first)) : json_null());
	json_object_set_new(out, "program", program_status(first));
	json_object_set_new(out, "command", command_status(generation->argv));
	json_object_set_new(out, "workers", workers);
	return out;
}

static json_t *listeners_status(const struct service *service)
{
	json_t *out = json_array();

	for (const struct held *held = service->held; held != NULL; held = held->next) {
		char text[SG_ADDRESS_MAX];

		if (sg_listener_text(held->fd, text, sizeof(text)) < 0)
			snprintf(text, sizeof(text), "%s", held->address);
		json_array_append_new(out, json_pack("{ssso}", "name", held->name, "address",
		                                     control_text(text)));
	}
	return out;
}

static json_t *upgrade_status(const struct service *service)
{
	const struct upgrade *upgrade = &service->upgrade;

	if (!upgrade->running)
		return json_null();
	return json_pack(
		"{sIsosssIso}", "generation", (json_int_t)upgrade->generation, "predecessor",
		upgrade->predecessor ? json_integer((json_int_t)upgrade->predecessor) : json_null(),
		"state", table_service_state_text(service->state), "ms",
		(json_int_t)(sg_now_ms() - upgrade->began_ms), "deadline_ms",
		status_number(service_deadline_left(service)));
}

static json_t *last_upgrade_status(const struct service *service)
{
	const struct upgrade *upgrade = &service->upgrade;

	if (upgrade->outcome == NULL)
		return json_null();
	return json_pack("{sIsssosososI}", "generation", (json_int_t)upgrade->generation, "outcome",
	                 upgrade->outcome, "message", control_text(upgrade->reason), "at",
	                 time_text(upgrade->ended), "age_ms",
	                 json_integer(sg_now_ms() - upgrade->ended_ms), "ms",
	                 (json_int_t)(upgrade->ended_ms - upgrade->began_ms));
}

json_t *status_of(struct service *service)
{
	json_t *generations = json_array(), *out = json_object();

	for (struct generation *g = service->generations; g != NULL; g = g->next)
		(void)json_array_insert_new(generations, 0, generation_status(g));
	json_object_set_new(out, "version", json_integer(1));
	json_object_set_new(out, "name", json_string(service->config->name));
	json_object_set_new(out, "pid", json_integer(getpid()));
	json_object_set_new(out, "state", json_string(table_service_state_text(service->state)));
	json_object_set_new(out, "since", time_text(service->since));
	json_object_set_new(out, "age_ms", json_integer(sg_now_ms() - service->since_ms));
	json_object_set_new(out, "uptime_ms", json_integer(sg_now_ms() - service->began_ms));
	json_object_set_new(out, "control", control_text(service->control_path));
	json_object_set_new(out, "config", control_text(service->config->file));
	json_object_set_new(out, "listeners", listeners_status(service));
	json_object_set_new(out, "restarts", json_integer((json_int_t)service->restarts));
	json_object_set_new(out, "workers_wanted",
	                    json_integer((json_int_t)service->terms->config->workers));
	json_object_set_new(out, "generations", generations);
	json_object_set_new(out, "upgrade", upgrade_status(service));
	json_object_set_new(out, "last_upgrade", last_upgrade_status(service));
	return out;
}
