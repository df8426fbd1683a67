/* SPDX-License-Identifier: MIT */
/*
 * On what terms a generation runs: its settings, the supervisor's own environment without what
 * was meant for the supervisor alone, the operator's changes, and whom it runs as. A file that
 * is wrong by now refuses the upgrade, and changes nothing.
 */
#include "core/fd.h"
#include "segue/supervisor.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A name that ends with "*" stands for all that begin so. */
static const char *const private_names[] = {
	"SEGUE_CHANNEL", "SEGUE_NAME",     "SEGUE_GENERATION", "SEGUE_WORKER", "NOTIFY_SOCKET",
	"SEGUE_PID",
	"LISTEN_*",      "WATCHDOG_*",     "MAINPID",          "FDSTORE",      "SYSTEMD_EXEC_*",
	"INVOCATION_ID", "JOURNAL_STREAM", "MONITOR_*",        "SUPERVISOR_*", "MEMORY_PRESSURE_*",
};

static bool is_private(const char *variable)
{
	size_t len = strcspn(variable, "=");

	for (size_t i = 0; i < sizeof(private_names) / sizeof(private_names[0]); i++) {
		size_t name_len = strlen(private_names[i]);

		if (private_names[i][name_len - 1] == '*'
		            ? strncmp(variable, private_names[i], name_len - 1) == 0
		            : name_len == len && strncmp(variable, private_names[i], len) == 0)
			return true;
	}
	return false;
}

static bool is_changed(const char *variable, char *const *changes)
{
	size_t len = strcspn(variable, "=");

	for (; *changes != NULL; changes++)
		if (strcspn(*changes, "=") == len && strncmp(*changes, variable, len) == 0)
			return true;
	return false;
}

static int put(char **envp, size_t *count, const char *variable)
{
	envp[*count] = strdup(variable);
	if (envp[*count] == NULL)
		return -ENOMEM;
	(*count)++;
	return 0;
}

static int take_environment(struct terms *terms)
{
	char *const *changes = terms->config->env;
	size_t count = 0, room = 2;
	char **envp;
	int r = sg_origin_take(&terms->origin);

	if (r < 0)
		return r;
	for (char **e = terms->origin.envp; *e != NULL; e++)
		room++;
	for (char *const *e = changes; *e != NULL; e++)
		room++;
	envp = calloc(room, sizeof(*envp));
	if (envp == NULL)
		return -ENOMEM;
	for (char **e = terms->origin.envp; r == 0 && *e != NULL; e++)
		if (!is_private(*e) && !is_changed(*e, changes) &&
		    !(terms->config->directory != NULL && strncmp(*e, "PWD=", 4) == 0))
			r = put(envp, &count, *e);
	for (char *const *e = changes; r == 0 && *e != NULL; e++)
		if (strchr(*e, '=') != NULL)
			r = put(envp, &count, *e);
	for (char **e = terms->origin.envp; *e != NULL; e++)
		free(*e);
	free(terms->origin.envp);
	terms->origin.envp = envp;
	return r;
}

static bool is_number(const char *text, unsigned long *ret_number)
{
	char *end;

	errno = 0;
	*ret_number = strtoul(text, &end, 10);
	return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 &&
	       *ret_number < UINT32_MAX;
}

static int find_user(struct terms *terms, char *reason, size_t size)
{
	const char *user = terms->config->user;
	unsigned long number;
	struct passwd *entry = getpwnam(user);
	int count = (int)(sizeof(terms->groups) / sizeof(terms->groups[0]));

	if (entry == NULL && is_number(user, &number)) {
		terms->identity.uid = (uid_t)number;
		entry = getpwuid((uid_t)number);
		if (entry == NULL) {
			terms->identity.gid = (gid_t)number;
			return 0;
		}
	}
	if (entry == NULL) {
		snprintf(reason, size, "there is no user '%s' (see --user)", user);
		return -EINVAL;
	}
	terms->identity.uid = entry->pw_uid;
	terms->identity.gid = entry->pw_gid;
	if (getgrouplist(entry->pw_name, entry->pw_gid, terms->groups, &count) >= 0)
		terms->identity.groups_len = (size_t)count;
	return 0;
}

static int find_group(struct terms *terms, char *reason, size_t size)
{
	const char *group = terms->config->group;
	struct group *entry = getgrnam(group);
	unsigned long number;

	if (entry == NULL && !is_number(group, &number)) {
		snprintf(reason, size, "there is no group '%s' (see --group)", group);
		return -EINVAL;
	}
	terms->identity.gid = entry != NULL ? entry->gr_gid : (gid_t)number;
	terms->groups[0] = terms->identity.gid;
	terms->identity.groups_len = 1;
	return 0;
}

static int find_identity(struct terms *terms, char *reason, size_t reason_size)
{
	int r = 0;

	if (terms->config->user == NULL && terms->config->group == NULL)
		return 0;
	if (geteuid() != 0) {
		snprintf(reason, reason_size,
		         "--user and --group need root: workers run as the supervisor's user");
		return -EPERM;
	}
	terms->identity =
		(struct sg_identity){ .uid = getuid(), .gid = getgid(), .groups = terms->groups };
	if (terms->config->user != NULL)
		r = find_user(terms, reason, reason_size);
	if (r == 0 && terms->config->group != NULL)
		r = find_group(terms, reason, reason_size);
	if (r == 0)
		terms->as = &terms->identity;
	return r;
}

struct terms *terms_ref(struct terms *terms)
{
	terms->refs++;
	return terms;
}

void terms_unref(struct terms *terms)
{
	if (terms == NULL || --terms->refs > 0)
		return;
	sg_origin_done(&terms->origin);
	config_free(terms->config);
	free(terms);
}

int terms_new_take(struct terms **ret_terms, struct config *config, char *reason,
                   size_t reason_size)
{
	struct terms *terms = calloc(1, sizeof(*terms));
	int r;

	if (terms == NULL) {
		config_free(config);
		return -ENOMEM;
	}
	terms->refs = 1;
	terms->config = config;
	terms->origin.directory_fd = -1;
	r = take_environment(terms);
	if (r < 0)
		snprintf(reason, reason_size,
		         "the environment could not be read; is /proc mounted?");
	else
		r = find_identity(terms, reason, reason_size);
	if (r < 0) {
		terms_unref(terms);
		return r;
	}
	*ret_terms = terms;
	return 0;
}

static bool same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool same_words(char **a, char **b)
{
	for (; *a != NULL && *b != NULL; a++, b++)
		if (strcmp(*a, *b) != 0)
			return false;
	return *a == *b;
}

/* What belongs to the supervisor itself cannot change while it runs. */
static const char *changed_for_good(const struct config *a, const struct config *b)
{
	if (!same_words(a->listen, b->listen))
		return "listen";
	if (!same_text(a->pid_file, b->pid_file))
		return "pid-file";
	if (!same_text(a->control, b->control))
		return "control";
	if (a->log != b->log || a->log_json != b->log_json || !same_text(a->log_file, b->log_file))
		return "log";
	return NULL;
}

int terms_again(struct terms **ret_terms, struct service *service, char *reason, size_t reason_size)
{
	char why[CONFIG_REASON_MAX];
	struct config *config;
	const char *changed;
	int r;

	if (service->config->file == NULL) {
		*ret_terms = terms_ref(service->terms);
		return 0;
	}
	r = config_from_arguments(&config, service->argc, service->argv, why);
	if (r != 0) {
		snprintf(reason, reason_size, "the configuration is wrong by now: %.600s", why);
		return -EINVAL;
	}
	/* By default it is the program's, which may have another now. */
	free(config->name);
	config->name = strdup(service->config->name);
	if (config->name == NULL) {
		config_free(config);
		return -ENOMEM;
	}
	changed = changed_for_good(service->config, config);
	if (changed != NULL) {
		snprintf(reason, reason_size,
		         "%s: '%s' has changed, which an upgrade cannot do; stop the service and "
		         "start it again, or change it back",
		         config->file, changed);
		config_free(config);
		return -EINVAL;
	}
	return terms_new_take(ret_terms, config, reason, reason_size);
}

/* Has the file another command line than it had? */
bool terms_new_command(const struct terms *before, const struct terms *now)
{
	return !same_words(before->config->argv, now->config->argv);
}
