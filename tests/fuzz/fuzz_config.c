/* SPDX-License-Identifier: MIT */
/*
 * Configuration files: whatever is accepted prints as a file that is accepted again and prints as
 * the same; whatever is refused has a sentence of one line that begins with the file's name.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "segue/config.h"

#define PATH "a.conf"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_sentence(const char *sentence)
{
	if (strncmp(sentence, PATH ":", strlen(PATH) + 1) != 0)
		abort();
	if (strlen(sentence) >= CONFIG_REASON_MAX)
		abort();
	for (; *sentence; sentence++)
		if ((unsigned char)*sentence < 0x20 || *sentence == 0x7f)
			abort();
}

static void check_whole(const struct config *config)
{
	if (!config->name || !config->listen || !config->env || !config->argv || !config->argv[0])
		abort();
	if (config->workers < 1 || config->workers > CONFIG_WORKERS_MAX)
		abort();
	for (size_t i = 0; i < config->listen_len; i++)
		if (!config->listen[i])
			abort();
	if (config->listen[config->listen_len])
		abort();
}

static char *printed(const struct config *config, size_t *ret_size)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, ret_size);

	if (!out || config_print(config, out) < 0 || fclose(out) != 0)
		abort();
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char reason[CONFIG_REASON_MAX] = "";
	struct config *config, *again;
	size_t text_size, again_size;
	char *text, *again_text;

	if (config_from_text(&config, PATH, (const char *)data, size, reason) < 0) {
		check_sentence(reason);
		return 0;
	}
	check_whole(config);
	text = printed(config, &text_size);
	if (config_from_text(&again, PATH, text, text_size, reason) < 0)
		abort();
	again_text = printed(again, &again_size);
	if (strcmp(text, again_text) != 0)
		abort();
	config_free(config);
	config_free(again);
	free(text);
	free(again_text);
	return 0;
}
