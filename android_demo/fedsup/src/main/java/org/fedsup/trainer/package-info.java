/**
 * Trains a subnet of fedsup-tf on the phone. The model is a file that {@code fedsup export} wrote,
 * run by the stock TensorFlow Lite or LiteRT runtime.
 *
 * <p>{@link org.fedsup.trainer.Trainer} opens the file, runs inference and single training steps;
 * {@link org.fedsup.trainer.TrainingRun} trains on all examples;
 * {@link org.fedsup.trainer.CheckpointStore} saves the result, and
 * {@link org.fedsup.trainer.UpdateFile} writes the update that {@code fedsup merge} reads. None of
 * these classes uses the network, and the module requests no permissions.
 *
 * <p>{@link org.fedsup.trainer.Participant} lets a device take part in the rounds of a
 * {@code fedsup serve}, using the requests of {@link org.fedsup.trainer.Federation}. An app that
 * uses these two classes must request the INTERNET permission.
 *
 * <p>Parameters and return values are non-null unless annotated otherwise; Kotlin reads the
 * annotations.
 */
@NullMarked
package org.fedsup.trainer;

import org.jspecify.annotations.NullMarked;
