/**
 * Trains a subnet of fedsup-tf on the phone: the file of {@code fedsup export}, run by the stock
 * TensorFlow Lite or LiteRT runtime.
 *
 * <p>{@link org.fedsup.trainer.Trainer} opens the file, infers and takes single steps;
 * {@link org.fedsup.trainer.TrainingRun} trains on all examples;
 * {@link org.fedsup.trainer.CheckpointStore} keeps what was learned, and
 * {@link org.fedsup.trainer.UpdateFile} is what {@code fedsup merge} takes. None of these uses a
 * network, and the module asks for no permission.
 *
 * <p>{@link org.fedsup.trainer.Participant} lets a device take part in the rounds of a {@code fedsup
 * serve}, by the requests of {@link org.fedsup.trainer.Federation}. An app that uses them asks for
 * the permission INTERNET.
 *
 * <p>No parameter takes null and no method returns it where that is not said, which Kotlin knows.
 */
@NullMarked
package org.fedsup.trainer;

import org.jspecify.annotations.NullMarked;
