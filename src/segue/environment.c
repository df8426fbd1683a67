/* SPDX-License-Identifier: MIT */
/*
 * What every worker is started with: the supervisor's own environment without what was meant for
 * the supervisor alone, the operator's changes, and whom it runs as.
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

int environment_take(struct service *service)
{
	char *const *changes = service->config->env;
	size_t count = 0, room = 2;
	char **envp;
	int r = sg_origin_take(&service->origin);

	if (r < 0)
		return r;
	for (char **e = service->origin.envp; *e != NULL; e++)
		room++;
	for (char *const *e = changes; *e != NULL; e++)
		room++;
	envp = calloc(room, sizeof(*envp));
	if (envp == NULL)
		return -ENOMEM;
	for (char **e = service->origin.envp; r == 0 && *e != NULL; e++)
		if (!is_private(*e) && !is_changed(*e, changes) &&
		    !(service->config->directory != NULL && strncmp(*e, "PWD=", 4) == 0))
			r = put(envp, &count, *e);
	for (char *const *e = changes; r == 0 && *e != NULL; e++)
		if (strchr(*e, '=') != NULL)
			r = put(envp, &count, *e);
	for (char **e = service->origin.envp; *e != NULL; e++)
		free(*e);
	free(service->origin.envp);
	service->origin.envp = envp;
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

static int find_user(struct service *service, char *reason, size_t size)
{
	const char *user = service->config->user;
	unsigned long number;
	struct passwd *entry = getpwnam(user);
	int count = (int)(sizeof(service->groups) / sizeof(service->groups[0]));

	if (entry == NULL && is_number(user, &number)) {
		service->identity.uid = (uid_t)number;
		entry = getpwuid((uid_t)number);
		if (entry == NULL) {
			service->identity.gid = (gid_t)number;
			return 0;
		}
	}
	if (entry == NULL) {
		snprintf(reason, size, "there is no user '%s' (see --user)", user);
		return -EINVAL;
	}
	service->identity.uid = entry->pw_uid;
	service->identity.gid = entry->pw_gid;
	if (getgrouplist(entry->pw_name, entry->pw_gid, service->groups, &count) >= 0)
		service->identity.groups_len = (size_t)count;
	return 0;
}

static int find_group(struct service *service, char *reason, size_t size)
{
	const char *group = service->config->group;
	struct group *entry = getgrnam(group);
	unsigned long number;

	if (entry == NULL && !is_number(group, &number)) {
		snprintf(reason, size, "there is no group '%s' (see --group)", group);
		return -EINVAL;
	}
	service->identity.gid = entry != NULL ? entry->gr_gid : (gid_t)number;
	service->groups[0] = service->identity.gid;
	service->identity.groups_len = 1;
	return 0;
}

int environment_identity(struct service *service, char *reason, size_t reason_size)
{
	int r = 0;

	if (service->config->user == NULL && service->config->group == NULL)
		return 0;
	if (geteuid() != 0) {
		snprintf(reason, reason_size,
		         "--user and --group need root: workers run as the supervisor's user");
		return -EPERM;
	}
	service->identity =
		(struct sg_identity){ .uid = getuid(), .gid = getgid(), .groups = service->groups };
	if (service->config->user != NULL)
		r = find_user(service, reason, reason_size);
	if (r == 0 && service->config->group != NULL)
		r = find_group(service, reason, reason_size);
	if (r == 0)
		service->as = &service->identity;
	return r;
}
