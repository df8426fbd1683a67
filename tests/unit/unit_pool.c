/* SPDX-License-Identifier: MIT */
/* The threads for handlers that block, where the system gives no more of them. */
#include "unit.h"

#include "http/internal.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

/* The names are the linker's: --wrap=pthread_create. */
int real_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                void *arg) __asm__("__real_pthread_create");
int create_where_there_is_room(pthread_t *thread, const pthread_attr_t *attributes,
                               void *(*run)(void *), void *arg) __asm__("__wrap_pthread_create");

static bool no_threads;

int create_where_there_is_room(pthread_t *thread, const pthread_attr_t *attributes,
                               void *(*run)(void *), void *arg)
{
	return no_threads ? EAGAIN : real_create(thread, attributes, run, arg);
}

/* Of the module, what the pool asks of a request. */

bool segue_http_gone(const struct segue_http_request *req)
{
	return false;
}

int segue_http_end(struct segue_http_request *req)
{
	UNIT_FAIL("a request whose client waits was ended");
}

/* A handler that blocks until it is let go. */

static sem_t running, let_go;

static void block(struct segue_http_request *req, void *ctx)
{
	sem_post(&running);
	sem_wait(&let_go);
}

static const struct sgh_route route = { .handler = block };

static void begin(struct segue_http_request *requests, size_t count)
{
	MUST(sem_init(&running, 0, 0));
	MUST(sem_init(&let_go, 0, 0));
	memset(requests, 0, count * sizeof(*requests));
	for (size_t i = 0; i < count; i++)
		requests[i].route = &route;
}

static void end(struct sgh_pool *pool, unsigned int handled)
{
	for (unsigned int i = 0; i < handled; i++)
		sem_post(&let_go);
	/* A thread that has done its work says so a moment later. */
	while (!sgh_pool_free(pool))
		sched_yield();
	for (unsigned int i = 1; i < handled; i++)
		CHECK_INT(sem_trywait(&running), 0);
	CHECK(sem_trywait(&running) < 0);
}

UNIT_CASE(the_queue_has_its_limit_too_where_there_are_fewer_threads_than_there_may_be)
{
	static struct segue_http_request requests[4];
	struct sgh_pool *pool;

	begin(requests, 4);
	CHECK_INT(sgh_pool_new(&pool, 4, 2), 0);
	CHECK_INT(sgh_pool_submit(pool, &requests[0]), 0);
	CHECK_INT(sem_wait(&running), 0);
	no_threads = true;
	CHECK_INT(sgh_pool_submit(pool, &requests[1]), 0);
	CHECK_INT(sgh_pool_submit(pool, &requests[2]), 0);
	CHECK_INT(sgh_pool_submit(pool, &requests[3]), -EAGAIN);
	/* As soon as there is a thread for it, it is taken. */
	no_threads = false;
	CHECK_INT(sgh_pool_submit(pool, &requests[3]), 0);
	end(pool, 4);
}

UNIT_CASE(without_any_thread_nothing_waits_in_the_queue)
{
	static struct segue_http_request request;
	struct sgh_pool *pool;

	begin(&request, 1);
	CHECK_INT(sgh_pool_new(&pool, 4, 2), 0);
	no_threads = true;
	CHECK_INT(sgh_pool_submit(pool, &request), -EAGAIN);
	no_threads = false;
	CHECK_INT(sgh_pool_submit(pool, &request), 0);
	CHECK_INT(sem_wait(&running), 0);
	end(pool, 1);
}

UNIT_MAIN
