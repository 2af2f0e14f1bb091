// SPDX-License-Identifier: Apache-2.0

// Package nbdserver serves block devices over the Network Block Device protocol.
//
// A [Server] negotiates (fixed newstyle only) and serves what a [Catalog] offers. It is made for clients like qemu that
// have one connection and few requests in flight, where the server's own latency is the throughput.
//
// # The life of a request
//
//  1. The connection's reader takes as many bytes as there are from the socket into its read buffer (reader.go).
//  2. It decodes and validates one header after the other (validate.go). What is wrong is answered with an error; the
//     payload of a wrong write is skipped, so that the stream stays in step.
//  3. A small request of a device that answers at once is executed by the reader itself: reads fill the reply arena
//     behind their header, writes are taken from the read buffer (inline.go). Large reads of such devices are done
//     piece by piece between looks at the socket, so that they do not hold up small ones.
//  4. Any other request gets a buffer and a worker goroutine (jobs.go). A write's payload goes from the socket into that
//     buffer directly. Nothing reaches the device before all of it is there.
//  5. Finished replies wait in the connection's queue; whoever finds nobody sending sends all of them, with one system
//     call for many (sender.go). Replies larger than a piece are sent as several chunks in turn with the others.
//  6. The buffer goes back to the pool when its last byte was taken by the kernel.
//
// # Ownership and limits
//
// Every buffer has one owner: the reader until a request is complete, the worker while it is executed, the queue until
// it is sent. Payload buffers come from one pool with a budget over all clients; the reader is the only one who waits for
// them, so a server short of buffers leaves requests in the sockets. What a connection may hold is limited in requests
// and bytes, and both a half-sent payload and a reply that nobody takes end the connection after a time.
//
// # Locks
//
// Server.mu (the set of connections) before conn.mu (reply queue, requests in flight). Neither is held during I/O on
// sockets or devices, nor while one waits for a buffer.
package nbdserver
