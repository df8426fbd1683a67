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
	"SEGUE_CHANNEL",  "SEGUE_NAME", "SEGUE_GENERATION", "SEGUE_WORKER",
	"NOTIFY_SOCKET",  "SEGUE_PID",  "LISTEN_*",         "WATCHDOG_*",
	"MAINPID",        "FDSTORE",    "SYSTEMD_EXEC_*",   "INVOCATION_ID",
	"JOURNAL_STREAM", "MONITOR_*",  "SUPERVISOR_*",     "MEMORY_PRESSURE_*",
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

/* What says whose process it is, in the order of put_user(). */
static const char *const user_names[] = { "HOME", "LOGNAME", "SHELL", "USER" };

#define USER_NAMES (sizeof(user_names) / sizeof(user_names[0]))

static bool is_of_user(const char *variable)
{
	size_t len = strcspn(variable, "=");

	for (size_t i = 0; i < USER_NAMES; i++)
		if (strlen(user_names[i]) == len && strncmp(variable, user_names[i], len) == 0)
			return true;
	return false;
}

/* As systemd does for User=, where --env says nothing else. */
static int put_user(char **envp, size_t *count, const struct passwd *user, char *const *changes)
{
	const char *values[USER_NAMES] = { user->pw_dir, user->pw_name, user->pw_shell,
		                           user->pw_name };
	int r = 0;

	for (size_t i = 0; r == 0 && i < USER_NAMES; i++) {
		char *variable;

		if (values[i] == NULL || values[i][0] == '\0' || is_changed(user_names[i], changes))
			continue;
		if (asprintf(&variable, "%s=%s", user_names[i], values[i]) < 0)
			return -ENOMEM;
		r = put(envp, count, variable);
		free(variable);
	}
	return r;
}

/* Does a worker have a variable of the supervisor's? */
static bool is_kept(const struct config *config, const char *variable)
{
	return !is_private(variable) && !is_changed(variable, config->env) &&
	       !(config->directory != NULL && strncmp(variable, "PWD=", 4) == 0) &&
	       !(config->user != NULL && is_of_user(variable));
}

/* user: an entry for --user, or NULL. */
static int make_environment(struct terms *terms, const struct sg_origin *origin,
                            const struct passwd *user)
{
	char *const *changes = terms->config->env;
	size_t count = 0, room = 1 + USER_NAMES;
	char **envp;
	int r = 0;

	for (char **e = origin->envp; *e != NULL; e++)
		room++;
	for (char *const *e = changes; *e != NULL; e++)
		room++;
	envp = calloc(room, sizeof(*envp));
	if (envp == NULL)
		return -ENOMEM;
	terms->origin = *origin;
	terms->origin.envp = envp;
	for (char **e = origin->envp; r == 0 && *e != NULL; e++)
		if (is_kept(terms->config, *e))
			r = put(envp, &count, *e);
	if (r == 0 && user != NULL)
		r = put_user(envp, &count, user, changes);
	for (char *const *e = changes; r == 0 && *e != NULL; e++)
		if (strchr(*e, '=') != NULL)
			r = put(envp, &count, *e);
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

/* As many as there are: a worker must not lack one silently. */
static int find_groups(struct terms *terms, const struct passwd *user)
{
	int count = 16, room;

	do {
		gid_t *larger = reallocarray(terms->groups, (size_t)count, sizeof(*larger));

		if (larger == NULL)
			return -ENOMEM;
		terms->groups = larger;
		room = count;
	} while (getgrouplist(user->pw_name, user->pw_gid, terms->groups, &count) < 0 &&
	         count > room);
	if (count > room)
		return -ENOMEM;
	terms->identity.groups = terms->groups;
	terms->identity.groups_len = (size_t)count;
	return 0;
}

/* ret_entry: NULL for a number that has none. */
static int find_user(struct terms *terms, const struct passwd **ret_entry, char *reason,
                     size_t size)
{
	const char *user = terms->config->user;
	unsigned long number;
	const struct passwd *entry = getpwnam(user);

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
	*ret_entry = entry;
	return find_groups(terms, entry);
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
	terms->identity.groups = &terms->identity.gid;
	terms->identity.groups_len = 1;
	return 0;
}

static int find_identity(struct terms *terms, const struct passwd **ret_user, char *reason,
                         size_t reason_size)
{
	int r = 0;

	if (terms->config->user == NULL && terms->config->group == NULL)
		return 0;
	if (geteuid() != 0) {
		snprintf(reason, reason_size,
		         "--user and --group need root: workers run as the supervisor's user");
		return -EPERM;
	}
	terms->identity = (struct sg_identity){ .uid = getuid(), .gid = getgid() };
	if (terms->config->user != NULL)
		r = find_user(terms, ret_user, reason, reason_size);
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
	for (char **e = terms->origin.envp; e != NULL && *e != NULL; e++)
		free(*e);
	free(terms->origin.envp);
	free(terms->groups);
	config_free(terms->config);
	free(terms);
}

int terms_new_take(struct terms **ret_terms, struct config *config, const struct sg_origin *origin,
                   char *reason, size_t reason_size)
{
	const struct passwd *user = NULL;
	struct terms *terms = calloc(1, sizeof(*terms));
	int r;

	reason[0] = '\0';
	if (terms == NULL) {
		config_free(config);
		return -ENOMEM;
	}
	terms->refs = 1;
	terms->config = config;
	r = find_identity(terms, &user, reason, reason_size);
	if (r == 0)
		r = make_environment(terms, origin, user);
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
	if (!same_text(a->listen_mode, b->listen_mode))
		return "listen-mode";
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
	return terms_new_take(ret_terms, config, &service->origin, reason, reason_size);
}

/* Has the file another command line than it had? */
bool terms_new_command(const struct terms *before, const struct terms *now)
{
	return !same_words(before->config->argv, now->config->argv);
}
