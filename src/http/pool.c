/* SPDX-License-Identifier: MIT */
/*
 * The threads for handlers that block.
 *
 * One more thread is started for each request that finds none free, up to the limit; then requests
 * wait, up to the limit of the queue; then they are refused, which costs the loop nothing. A thread
 * without work ends after a while.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "internal.h"

#define IDLE_S 10

struct sgh_pool {
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	struct segue_http_request *first, **last;
	uint32_t queued, threads, free_threads;
	uint32_t threads_max, queue_max;
	bool stopping;
};

int sgh_pool_new(struct sgh_pool **ret_pool, uint32_t threads, uint32_t queue)
{
	struct sgh_pool *pool = calloc(1, sizeof(*pool));
	pthread_condattr_t attributes;

	if (!pool)
		return -ENOMEM;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->work, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_cond_init(&pool->done, NULL);
	pool->last = &pool->first;
	pool->threads_max = threads;
	pool->queue_max = queue;
	*ret_pool = pool;
	return 0;
}

/* Under the lock: wait for work; NULL where the thread may end. */
static struct segue_http_request *next_request(struct sgh_pool *pool)
{
	struct segue_http_request *req;
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_S;
	pool->free_threads++;
	while (!pool->first && !pool->stopping && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&pool->work, &pool->lock, &until);
	pool->free_threads--;
	req = pool->first;
	if (!req)
		return NULL;
	pool->first = req->next;
	if (!pool->first)
		pool->last = &pool->first;
	pool->queued--;
	return req;
}

static void *thread_main(void *arg)
{
	struct sgh_pool *pool = arg;
	struct segue_http_request *req;

	pthread_mutex_lock(&pool->lock);
	while ((req = next_request(pool))) {
		pthread_mutex_unlock(&pool->lock);
		/* Nobody waits for the answer any more: spare the work. */
		if (segue_http_gone(req))
			segue_http_end(req);
		else
			req->route->handler(req, req->route->ctx);
		pthread_mutex_lock(&pool->lock);
	}
	pool->threads--;
	pthread_cond_signal(&pool->done);
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static int start_thread(struct sgh_pool *pool)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int r;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attributes, thread_main, pool);
	pthread_attr_destroy(&attributes);
	if (r == 0)
		pool->threads++;
	return -r;
}

/* Under the lock: is there a thread for one request more, or else a place to wait in? */
static bool has_room(struct sgh_pool *pool)
{
	if (pool->queued < pool->free_threads)
		return true;
	if (pool->threads < pool->threads_max && start_thread(pool) == 0)
		return true;
	return pool->threads > 0 && pool->queued < pool->queue_max;
}

/* -EAGAIN: too many wait. */
int sgh_pool_submit(struct sgh_pool *pool, struct segue_http_request *req)
{
	int r = 0;

	pthread_mutex_lock(&pool->lock);
	if (!has_room(pool)) {
		r = -EAGAIN;
	} else {
		req->next = NULL;
		*pool->last = req;
		pool->last = &req->next;
		pool->queued++;
		pthread_cond_signal(&pool->work);
	}
	pthread_mutex_unlock(&pool->lock);
	return r;
}

/* False where a handler still blocks: then the pool stays, for it will come back to it. */
bool sgh_pool_free(struct sgh_pool *pool)
{
	bool idle;

	if (!pool)
		return true;
	pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->work);
	idle = !pool->queued && pool->free_threads == pool->threads;
	while (idle && pool->threads)
		pthread_cond_wait(&pool->done, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
	if (!idle)
		return false;
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->done);
	free(pool);
	return true;
}
